"""The Images tab: sets, captions, uploads."""
