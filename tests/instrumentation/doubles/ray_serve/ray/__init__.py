"""Ray, as far as Ray Serve's routing goes: its names, signatures and order of calls."""
