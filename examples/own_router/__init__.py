"""A router of your own and its adapter: the recipe of `CONTRIBUTING.md`, run by a test."""
