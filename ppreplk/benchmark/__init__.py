"""Measurements behind tools/benchmark.py: contestants take turns in one process, medians are quoted."""
