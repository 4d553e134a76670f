"""The command line of runner.py: one module per verb."""
