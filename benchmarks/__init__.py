"""Measurements: `python -m benchmarks` (make bench). Figures hold for one machine and one run."""
