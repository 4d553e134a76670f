"""Passes: to look, to decide, to act, to report; once, until all is done, or again and again."""
