"""What finished records tell, put together and printed."""
