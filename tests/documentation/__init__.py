"""The pages: what they say, their commands, and the site they become."""
