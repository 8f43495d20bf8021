"""The scale goals, measured as ratios in one run: `python -m benchmarks.scale`."""
