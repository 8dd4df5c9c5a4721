"""One file a tab; each has ``build(shared)``, called inside its tab."""
