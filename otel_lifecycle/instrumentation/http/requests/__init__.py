"""What a request asks: its path, model and prompt, and what a call to an engine is for."""
