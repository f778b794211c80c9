"""The same request followed by other tools: one module per peer, each with `open_peer`."""
