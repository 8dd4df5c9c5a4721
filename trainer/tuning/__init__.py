"""Searches over settings: short trainings, of which the better half goes on."""
