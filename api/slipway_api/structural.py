"""From Pydantic's JSON schema to Kubernetes' structural schema.

Structural schemas know no `$ref`, no null branch, no `const`, no exclusive bounds and no closed objects
(unknown fields are the API server's business). What has no structural form is refused here, at generation,
never on a user's cluster.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from slipway_api.rules import VALIDATIONS

Schema: TypeAlias = dict[str, Any]

_DROPPED: Final = frozenset({"title", "$defs", "propertyNames"})
_REFUSED: Final = frozenset({"oneOf", "allOf", "not", "prefixItems", "patternProperties", "exclusiveMaximum"})


class NotStructural(TypeError):
    """A type of the models has no structural schema."""


def structural(schema: Schema) -> Schema:
    """Return `schema` (as made by `model_json_schema`) in structural form. Raises NotStructural."""
    return _convert(schema, schema.get("$defs", {}), "")


def _convert(schema: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    merged = _collapse_null(_inline(schema, definitions), definitions)
    refused = _REFUSED & merged.keys()
    if refused or ("anyOf" in merged and "x-kubernetes-int-or-string" not in merged):
        raise NotStructural(f"{path or 'the root'} uses {sorted(refused) or 'anyOf'}; give it a plain type.")
    if merged.get("type") == "number":
        raise NotStructural(f"{path} is a float; use an integer or a quantity.")
    result: Schema = {}
    for key, value in merged.items():
        match key:
            case "properties":
                result[key] = {
                    name: _convert(child, definitions, f"{path}.{name}") for name, child in value.items()
                }
            case "items":
                result[key] = _convert(value, definitions, f"{path}[]")
            case "additionalProperties":
                if isinstance(value, dict):
                    result[key] = _convert(value, definitions, f"{path}{{}}")
            case "const":
                result["enum"] = [value]
            case "exclusiveMinimum":
                result["minimum"] = value + 1
            case "description":
                result[key] = " ".join(value.split())
            case "default":
                if value is not None:
                    result[key] = value
            case _ if key not in _DROPPED:
                result[key] = value
    return result


def _inline(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Replace a reference by what it names; what stands beside it (its description) wins."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    siblings = {key: value for key, value in schema.items() if key != "$ref"}
    return {**definitions[reference.removeprefix("#/$defs/")], **siblings}


def _collapse_null(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Turn `X or null` into `X`: in a CR an absent field is the only null there is."""
    branches = [branch for branch in schema.get("anyOf", []) if branch.get("type") != "null"]
    if len(branches) != 1:
        return schema
    outer = {key: value for key, value in schema.items() if key != "anyOf"}
    inner = _inline(branches[0], definitions)
    merged = {**inner, **outer}
    rules = inner.get(VALIDATIONS, []) + outer.get(VALIDATIONS, [])
    return {**merged, VALIDATIONS: rules} if rules else merged
