"""The public API as type checkers see it; nothing here is run."""
