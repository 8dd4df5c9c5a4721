"""Rarebit's library: everything that works without a browser."""
