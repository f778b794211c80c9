"""The demo: simulated engines, the instrumented example router, traffic, and a report."""
