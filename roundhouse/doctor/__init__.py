"""Whether an account on a cluster is ready for rounds."""
