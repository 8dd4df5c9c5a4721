"""Pictures drawn with a base model and any number of adapters."""
