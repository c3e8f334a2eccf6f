"""The way in: objects of other operators become LLMDeployments, with a note for what was left out."""
