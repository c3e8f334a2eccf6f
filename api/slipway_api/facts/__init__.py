"""What a planner must know of a model, read from headers and configuration: no weight is ever read.

`from_hugging_face` and `from_gguf` turn parsed, untrusted metadata into `ModelFacts`; `encode` and `decode`
carry them through the termination message of a pod. All of them raise `FactsError` with a sentence.
"""

from slipway_api.facts.gguf import from_gguf
from slipway_api.facts.huggingface import from_hugging_face, index_bytes, safetensors_tensors
from slipway_api.facts.model import MAX_ENCODED, FactsError, ModelFacts, TensorEntry, decode, encode

__all__ = [
    "MAX_ENCODED",
    "FactsError",
    "ModelFacts",
    "TensorEntry",
    "decode",
    "encode",
    "from_gguf",
    "from_hugging_face",
    "index_bytes",
    "safetensors_tensors",
]
