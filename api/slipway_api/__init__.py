"""Slipway's words: the types of its custom resources and all that is derived from them. Pure, no I/O."""
