"""The command line of runner.py: one module for each action."""
