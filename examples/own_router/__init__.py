"""A router with its adapter: the recipe of `CONTRIBUTING.md`, run by a test."""
