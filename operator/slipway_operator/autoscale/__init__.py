"""How many replicas there should be: pure policy over what was measured, with the arithmetic in words."""
