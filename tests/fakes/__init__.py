"""Commands that stand in for those of a scheduler."""
