"""What puts a record on its span."""
