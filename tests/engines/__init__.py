"""Sources of engine metrics."""
