"""A service for an exported program: HTTP, batches across requests, limits, metrics, and one page."""
