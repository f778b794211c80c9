"""The commands that judge routing policies: `simulate` and `judge`."""
