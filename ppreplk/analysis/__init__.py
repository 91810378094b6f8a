"""Effective receptive fields, complexity, and the paper's experiments."""
