"""What is recorded of requests because the settings or the program ask for it."""
