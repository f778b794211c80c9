"""Instruments Ray Serve."""
