"""Runs the example router and its engines in virtual time, in one process."""
