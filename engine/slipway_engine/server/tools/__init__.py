"""Tool calls in a model's own words, read as they are written: pure, no I/O."""
