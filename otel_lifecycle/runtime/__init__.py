"""Background threads, and what happens when a process forks or ends."""
