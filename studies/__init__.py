"""Studies: one package per family of experiments. A study computes; it knows neither schedulers nor job scripts."""
