"""Studies: one package per family of experiments. A study computes; it does not know schedulers or job scripts."""
