"""Analysis of a distillation round: measures of each run, comparisons, figures, a summary."""
