"""How deep the JSON of a schema can be nested: whether that has to be looked at in every payload."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["FLAT", "is_shallow"]

#: Marks, as ``metadata``, a schema with a serializer whose result has no more levels than one object of scalars.
FLAT: Final = {"mongo_envelope": "flat"}

_SCALARS: Final = {"none", "bool", "int", "float", "str", "bytes", "uuid", "decimal", "datetime", "date", "time", "timedelta"}
_SCALARS_TOO: Final = {"literal", "enum", "url", "multi-host-url"}
_CONTAINERS: Final = {
    *("nullable", "union", "tagged-union", "chain", "default", "function-before", "function-after", "function-wrap"),
    *("list", "tuple", "set", "frozenset", "dict", "typed-dict", "typed-dict-field"),
    *("model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field"),
}
_MOST: Final = 50


def is_shallow(schema: Any, level: int = 0) -> bool:
    """Whether no value of this schema has JSON of more than so many levels: nothing recursive in it, and nothing of any type."""
    if isinstance(schema, list | tuple):
        return all(is_shallow(each, level) for each in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("metadata") == FLAT:
        return True
    written = schema.get("serialization")
    if written is not None:
        return level < _MOST and "return_schema" in written and is_shallow(written["return_schema"], level + 1)
    kind = schema.get("type")
    if kind in _SCALARS or kind in _SCALARS_TOO:
        return True
    if isinstance(kind, str) and kind not in _CONTAINERS:
        return False
    inner = [value for name, value in schema.items() if name not in ("config", "metadata", "function", "cls", "default")]
    return level < _MOST and all(is_shallow(each, level + 1) for each in inner)
