"""Reading and writing core schemas: what every room of this package needs of their form.

A core schema is a dict whose ``type`` says what else is in it; pydantic_core.core_schema lists the kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Final, cast

from pydantic_core import CoreConfig, CoreSchema, core_schema

from .node import Kind, Node

__all__ = [
    "CONFIG",
    "INSTEAD",
    "JSON_KINDS",
    "LOAD",
    "Codec",
    "Raw",
    "checked",
    "choices_of",
    "config_of",
    "dumped",
    "first_of",
    "function_of",
    "is_pydantic",
    "only",
]

Raw = dict[str, Any]
Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]  # dump, load

#: How every schema is built. The first four are what makes JSON lossless; the fifth keeps values out of errors.
CONFIG: Final = CoreConfig(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",
    ser_json_timedelta="iso8601",
    hide_input_in_errors=True,
    cache_strings="keys",  # values hardly ever come again: looking each up costs more than making it
)
#: What a model's own configuration says about validation stays. About names, strictness and serialization it does not; about
#: text, it is told to each place that is text (`leaves`), because here it would reach our own forms of other types, too.
_CONFIG_KEPT: Final = (
    "title",
    "extra_fields_behavior",
    "allow_inf_nan",
    "regex_engine",
    "coerce_numbers_to_str",
    "validate_default",
    "url_preserve_empty_path",
)
#: What validators see in ``info.context``.
LOAD: Final = {"mongo_envelope": "load"}
INSTEAD: Final = "Annotate the field with Sensitive(dump=…, load=…), or use a type that JSON can tell apart"
#: the types that JSON has a word for, and which
JSON_KINDS: Final[dict[type, Kind]] = {str: "string", int: "int", bool: "bool", type(None): "null"}


def only(raw: Raw, *names: str) -> Raw:
    """The entries of these names, as far as they are given."""
    return {name: raw[name] for name in names if raw.get(name) is not None}


def checked(node: Node) -> CoreSchema:
    """A validator that lets a value pass which the node's check lets pass, and changes nothing."""

    def check(value: Any) -> Any:
        if not node.fits(value):
            raise ValueError("not a value of this type")
        return value

    return core_schema.no_info_plain_validator_function(check)


def function_of(raw: Raw) -> Raw:
    """A function validator without its schema, serializer and reference."""
    return only(raw, "type", "function")


def config_of(config: Raw) -> CoreConfig:
    """The configuration of a rewritten model: ours, and what the model's own says about validation."""
    return cast("CoreConfig", {**only(config, *_CONFIG_KEPT), **CONFIG})


def dumped(function: Callable[[Any], Any], written: CoreSchema) -> core_schema.PlainSerializerFunctionSerSchema:
    """A serializer: the function's result, written by the schema ``written``."""
    return core_schema.plain_serializer_function_ser_schema(function, return_schema=written)


def first_of(*schemas: CoreSchema, written: CoreSchema) -> CoreSchema:
    """The first of several schemas that validates; what is written is always of the form ``written``."""
    return core_schema.union_schema(list(schemas), mode="left_to_right", serialization=dumped(lambda value: value, written))


def is_pydantic(function: object) -> bool:
    """Whether a validator or a serializer is one of pydantic's own, which are known, and not a user's."""
    return isinstance(function, FunctionType | MethodType) and function.__module__.partition(".")[0] == "pydantic"


def choices_of(raw: Raw) -> list[Raw]:
    """The members of a union, a tagged one too, each once."""
    given = raw["choices"]
    each = list(given.values()) if isinstance(given, dict) else [one[0] if isinstance(one, tuple) else one for one in given]
    # Not by ==, which takes 1 for True and may compare whatever stands in a schema.
    unique = {one.get("schema_ref") or (id(one["cls"]) if one["type"] in ("model", "dataclass") else id(one)): one for one in each}
    return list(unique.values())
