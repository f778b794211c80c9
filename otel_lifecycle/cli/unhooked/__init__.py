"""The commands for routers that cannot be hooked."""
