"""The operator: makes the cluster match every LLMDeployment, and says in one sentence why it cannot."""
