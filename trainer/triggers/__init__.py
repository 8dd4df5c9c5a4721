"""Trigger words: what a word means before it is trained on, and words that mean nothing yet."""
