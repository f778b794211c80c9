"""Sources of accelerator state."""
