"""What is received over OTLP."""
