"""Ray, as far as Ray Serve's routing is concerned: names, signatures and order of calls."""
