"""One rule, two readers: the API server checks it as CEL, Python checks the same sentence as a predicate.

`Rule` sits in a field's `Annotated[...]` (or in a model's `rules`), so that a wrong object is refused with
the same words by `kubectl apply` and by every Python program that reads the object from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Rule:
    """A constraint on one value.

    `cel` is the expression of the CRD (`self` is the value), `holds` the same in Python, `message` the
    sentence that says what to write instead.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str

    def as_validation(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        return {"rule": self.cel, "message": self.message}

    def check(self, value: Any) -> Any:
        """Return `value`. Raises ValueError with the rule's sentence where it does not hold."""
        if not self.holds(value):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema.setdefault(VALIDATIONS, []).append(self.as_validation())
        return json_schema
