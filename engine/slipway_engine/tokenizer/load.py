"""The tokenizer of a model on disk, GGUF file or Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

from slipway_engine.tokenizer import gguf, huggingface
from slipway_engine.tokenizer.tokenizer import Tokenizer


def load_tokenizer(model: Path) -> Tokenizer:
    """Return the model's tokenizer. Raises ModelUnsupported, ModelCorrupt, ModelNotFound."""
    if model.is_dir():
        return huggingface.from_directory(model)
    from slipway_engine.loading.gguf import GGUFFile

    return gguf.from_metadata(GGUFFile.open(model).metadata)
