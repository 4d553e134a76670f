"""Checks whether an account on a cluster is ready for rounds."""
