"""New values for some fields of an instance, validated field by field as pydantic does when one is assigned.

Only the fields that change: to validate the others anew would decode a ``Base64Bytes`` twice and refuse a ``FutureDate`` that has
passed. Validators of the whole model are left to the load that follows, for which they must hold anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from .reading import Raw

__all__ = ["alone", "assigned"]


def assigned(model: BaseModel, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, in the types of their fields; a name that is no field is kept as it is. Raises what pydantic raises."""
    validator = _validator(type(model))
    values = {name: value for name, value in model.__dict__.items() if name in type(model).model_fields}
    for name in type(model).model_fields:  # in the order of the fields, as a validator that looks at those before it expects
        if name in changes:
            value = changes[name]
            values = cast("Any", validator.validate_assignment(values, name, value))[0]  # and extras, and the set of fields
    return {name: values.get(name, value) for name, value in changes.items()}


def alone(model: type[BaseModel], name: str, value: Any) -> Any:
    """What one field's own validators make of a value. Raises what pydantic or a validator raises."""
    return cast("Any", _validator(model).validate_assignment({}, name, value))[0][name]


@functools.lru_cache(maxsize=256)
def _validator(model: type[BaseModel]) -> SchemaValidator:
    """Of the model's fields, without what its class adds: model validators, and ``frozen``."""
    schema = cast("Raw", model.__pydantic_core_schema__)
    definitions: list[Any] = []
    config: Any = None
    while schema["type"] != "model-fields":
        if schema["type"] == "definitions":
            definitions = schema["definitions"]
        elif schema["type"] == "model":
            config = schema.get("config")
        if schema["type"] == "definition-ref":
            schema = next(each for each in definitions if each["ref"] == schema["schema_ref"])
        else:
            schema = schema["schema"]
    fields = {name: {**field, "frozen": False} for name, field in schema["fields"].items()}
    free = cast("CoreSchema", {**schema, "fields": fields})
    return SchemaValidator(core_schema.definitions_schema(free, definitions) if definitions else free, config)
