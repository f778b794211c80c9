"""Routers seen from both of their sides: inbound ASGI, and calls to engines through clients."""
