"""The HTTP edge: translates OpenAI-compatible HTTP to the core's gRPC."""
