"""Builds the built-in base model `models/tiny-emoji` from public emoji packages.

Run `python -m models.build` from the top of the project. See docs/notes/base-model.md.
"""
