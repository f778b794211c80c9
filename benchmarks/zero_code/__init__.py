"""What zero code costs real routers, each a process in front of one engine."""
