"""The front door: one OpenAI-compatible URL for all LLMDeployments that a caller may see."""
