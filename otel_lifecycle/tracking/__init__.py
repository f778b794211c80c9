"""Follows requests from dispatch to their end, and keeps the load of every endpoint."""
