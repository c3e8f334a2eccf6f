"""`kubectl slipway`: plans, explains, converts and tries out LLMDeployments from where the user stands."""
