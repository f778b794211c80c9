"""Tests of the collection of engine and device state."""
