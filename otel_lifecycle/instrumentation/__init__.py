"""Zero-code instrumentations, one module a router."""
