"""A simulated LLM inference engine that speaks the OpenAI API and exports vLLM metrics."""
