"""Commands that read record files as they are written: `ship`, `tail`, `top` and `validate`."""
