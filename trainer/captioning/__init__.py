"""Captions that models make: the base model itself, a server, or a local model."""
