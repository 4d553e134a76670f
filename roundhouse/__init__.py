"""Roundhouse: rounds of machine-learning experiments on PBS, Slurm or the local machine, kept in plain files."""

__version__ = "0.2.0"
