"""The next action for each experiment, from data that was read before. Nothing here does I/O or submits."""
