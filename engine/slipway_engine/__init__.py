"""Slipway's engine: paged-attention, continuously batched inference behind an OpenAI-compatible HTTP API."""
