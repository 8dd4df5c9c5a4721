"""The configuration: its fields, its file, presets, and what they come to."""
