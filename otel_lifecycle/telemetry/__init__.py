"""Spans, metrics and their names."""
