"""What distillation did to the students of a round: measures of each run, comparisons, figures, a summary."""
