"""Our networks inside other suites. Each module needs its suite installed, and is imported only by those who ask."""
