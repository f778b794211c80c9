"""A small hermes-style inference router: OpenAI-compatible, aware of caches, load and latency."""
