"""Measurements of speed: contestants take turns in one process, and medians are quoted."""
