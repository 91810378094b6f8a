"""Effective receptive fields, parameters and multiply-adds, and the paper's experiments at small scale."""
