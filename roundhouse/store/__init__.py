"""What lies on disk below experiments/: records, arrays and allocations, copies of the code."""
