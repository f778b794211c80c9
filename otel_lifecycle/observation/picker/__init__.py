"""What an endpoint picker tells of its decisions: its debug log and its spans."""
