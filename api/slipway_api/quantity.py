"""Kubernetes quantities: `500m`, `2`, `1.5Gi`, `1e3`."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from slipway_api.rules import VALIDATIONS

_PATTERN: Final = r"^[+-]?([0-9]+|[0-9]+[.][0-9]*|[.][0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$"
_SUFFIX: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    **{unit: Decimal(10 ** (6 + 3 * i)) for i, unit in enumerate("MGTPE")},
    **{f"{unit}i": Decimal(1024 ** (i + 1)) for i, unit in enumerate("KMGTPE")},
}


def parse_quantity(text: str) -> Decimal:
    """Return the value of a quantity. Raises ValueError with examples of what may be written."""
    match = re.fullmatch(_PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is no Kubernetes quantity; write for example 500m, 2, 4Gi or 1.5G.")
    suffix = match.group(2) or ""
    if re.fullmatch(r"[eE][+-]?[0-9]+", suffix):
        return Decimal(text)
    return Decimal(text.removesuffix(suffix)) * _SUFFIX[suffix]


def quantity_bytes(text: str) -> int:
    """Return a quantity of memory in whole bytes, rounded up."""
    return int(parse_quantity(text).to_integral_value(ROUND_CEILING))


def _normalise(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{value!r} is no Kubernetes quantity; write for example 500m, 2, 4Gi or '1.5'.")
    text = str(value)
    parse_quantity(text)
    return text


Quantity = Annotated[
    str,
    BeforeValidator(_normalise),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "x-kubernetes-int-or-string": True,
            VALIDATIONS: [
                {
                    "rule": "type(self) == int || isQuantity(self)",
                    "message": "must be a Kubernetes quantity, for example 500m, 2, 4Gi or 1.5G",
                }
            ],
        }
    ),
]
"""A quantity as text; an integer in the source becomes text, a float is refused."""
