"""Whether a directory is an embedding model: the modules that sentence-transformers lists.

Known are a transformer, a pooling over its last hidden states, and a normalisation to unit length.
"""

from __future__ import annotations

from pathlib import Path

from slipway_engine.errors import ModelUnsupported
from slipway_engine.loading.fields import Fields
from slipway_engine.loading.hf_config import read_json, read_json_list
from slipway_engine.models.pooling import Pooling, PoolingMode

_MODULES = "modules.json"
_MODES: dict[str, PoolingMode] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}


def read_pooling(directory: Path) -> Pooling | None:
    """Return how the model's hidden states become an embedding; None where it is no embedding model."""
    path = directory / _MODULES
    if not path.exists():
        return None
    modules = [Fields(path, module) for module in read_json_list(path)]
    kinds = [module.text("type").rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ModelUnsupported(
            f"{path}: the modules {', '.join(kinds)} are not supported; "
            "Transformer, Pooling and, at the end, Normalize are."
        )
    if modules[0].text("path", ""):
        raise ModelUnsupported(f"{path}: a transformer in a directory of its own is not supported.")
    return Pooling(_mode(directory, modules[1]), normalised=len(kinds) == 3)


def _mode(directory: Path, module: Fields) -> PoolingMode:
    place = module.text("path")
    if not place or Path(place).name != place:
        raise module.corrupt("path", "the name of a directory beside it")
    fields = Fields(directory / place / "config.json", read_json(directory / place / "config.json"))
    chosen = [name for name, value in fields.values.items() if name.startswith("pooling_mode_") and value]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        named = ", ".join(chosen) or "nothing"
        raise ModelUnsupported(f"{fields.path}: {named} is not supported; one of {', '.join(_MODES)} is.")
    if not fields.flag("include_prompt", True):
        raise ModelUnsupported(f"{fields.path}: include_prompt false is not supported; true is.")
    return _MODES[chosen[0]]
