"""LoRA: attach to a base model; adapter files: names, read, write, verify."""
