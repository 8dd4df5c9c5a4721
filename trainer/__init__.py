"""Rarebit's library: everything that works without a browser."""

__version__ = "0.2.0"
