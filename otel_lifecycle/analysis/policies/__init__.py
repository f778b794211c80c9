"""Judges routing policies by the records of their requests."""
