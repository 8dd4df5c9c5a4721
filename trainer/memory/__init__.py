"""Predicted and measured memory, and the plan that fits a card."""
