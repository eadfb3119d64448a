"""HTTP over the scheduler: an OpenAI-compatible server."""
