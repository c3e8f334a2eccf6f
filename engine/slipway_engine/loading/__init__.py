"""From files to weights: checked readers of untrusted model files, one tensor at a time."""
