"""Passes: query the scheduler, evaluate, act, report; once, or repeated until nothing is left to do."""
