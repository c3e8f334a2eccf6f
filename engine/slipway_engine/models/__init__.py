"""Decoders as configuration: pure functions from flattened tokens to hidden states."""
