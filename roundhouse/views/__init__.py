"""What is printed: tables, results, ETA, progress, explanations."""
