"""The KV cache: blocks, who holds them, what they remember, and how many the memory plan allows."""
