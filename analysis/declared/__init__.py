"""Figures that a study or a round file declares: a module for each kind, `draw.py` chooses, `runs.py` has the data."""
