"""The demo: simulated engines, the example router under zero code, traffic, and what came of it."""
