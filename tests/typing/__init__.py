"""What type checkers make of the public API; nothing here is run."""
