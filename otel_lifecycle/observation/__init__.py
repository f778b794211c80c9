"""Routers that cannot be hooked: what a proxy in front of them logs becomes records."""
