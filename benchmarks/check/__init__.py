"""Compares the cost of two commits: `make bench-check`."""
