"""The same request by everybody else: one module a peer, each with `open_peer`."""
