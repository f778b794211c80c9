"""Collects, in the background, the state of engines and devices that a router lacks."""
