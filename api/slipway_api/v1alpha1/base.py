"""What the types share: the base of all that users write, and the bounded words that several fields use."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from slipway_api.rules import VALIDATIONS, Rule

Label = Annotated[str, Field(max_length=63)]
ResourceName = Annotated[str, Field(min_length=1, max_length=253)]
LABEL_KEY_LENGTH: Final = 317


def named(what: str) -> Rule:
    """Return the rule of the name of an object in the same namespace."""
    return Rule(
        cel="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        holds=lambda v: re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", v) is not None,
        message=f"must be the name of a {what} in the same namespace: lower-case letters, digits, "
        "'-' and '.'",
    )


SecretName = Annotated[str, Field(min_length=1, max_length=253), named("Secret")]
ServiceAccountName = Annotated[str, Field(min_length=1, max_length=253), named("ServiceAccount")]

REVISION_RULE: Final = Rule(
    cel="self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$')",
    holds=lambda v: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", v) is not None,
    message="a revision must be a branch, a tag or a commit, for example main",
)
Revision = Annotated[str, Field(min_length=1, max_length=128), REVISION_RULE]


class Spec(BaseModel):
    """Base of all that a user writes: camelCase outside, snake_case inside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules over several fields, checked by the API server and here."""

    whole: ClassVar[bool] = False
    """Its fields only make sense together, so a class's are not mixed into an object's."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.rules:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        json_schema = super().__get_pydantic_json_schema__(schema, handler)
        if cls.rules:
            target = handler.resolve_ref_schema(json_schema)
            target[VALIDATIONS] = [rule.as_validation() for rule in cls.rules]
        return json_schema


class Status(BaseModel):
    """Base of all that the operator writes."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True)


def map_of(*keys: str) -> dict[str, Any]:
    """Return the schema of a list whose entries are merged by `keys`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


SET: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}
ANYTHING: Final[dict[str, Any]] = {"x-kubernetes-preserve-unknown-fields": True}

_DEGREE_MESSAGE: Final = "must be auto or a number from 1 to 64"


def _degree(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64):
        return value
    raise ValueError(_DEGREE_MESSAGE)


Degree = Annotated[
    int | str,
    BeforeValidator(_degree),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 4,
            "x-kubernetes-int-or-string": True,
            VALIDATIONS: [
                {
                    "rule": "type(self) == int ? self >= 1 && self <= 64 : self == 'auto'",
                    "message": _DEGREE_MESSAGE,
                }
            ],
        }
    ),
]
"""A degree of parallelism, or `auto`."""
