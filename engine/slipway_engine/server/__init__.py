"""The OpenAI-compatible HTTP side. It holds no model and imports no torch; the core is another process."""
