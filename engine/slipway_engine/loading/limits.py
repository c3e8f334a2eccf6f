"""Bounds on what a configuration may claim, far above any model, far below what would exhaust a machine."""

MAX_VOCAB = 1 << 22
MAX_WIDTH = 1 << 18
MAX_LAYERS = 1 << 10
MAX_EXPERTS = 1 << 12
MAX_ALL_EXPERTS = 1 << 17  # of all layers together
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 10
MAX_POSITIONS = 1 << 24
MAX_JSON = 64 << 20
MAX_SHARDS = 4096
