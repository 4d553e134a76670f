"""The parts of `benchmarks/gpu_check.py`: one module for each, and what they share."""
