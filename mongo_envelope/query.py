"""What a filter or a sort may ask, and how it is put to MongoDB. Pure: names and values in, names and values out.

A filter names fields as the model does. Each value is brought to the field's type and projected as the stored one was, so
that what matches is what a person means. A name that is sensitive or unknown, an operator that cannot be answered exactly,
a value of another type: `QueryError`, with the field and the way out. Never a query that silently finds nothing.

Blind indexes will be served from here: `_field` is the one place where a sensitive name is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from bson import ObjectId
from pydantic_core import PydanticUseDefault, ValidationError

from .errors import QueryError
from .lossless import Misfit
from .schema import Schema, StoredField

__all__ = ["compile_filter", "compile_sort", "identity_value"]

_LOGICAL: Final = frozenset({"$and", "$or", "$nor"})
_ONE_VALUE: Final = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})
_SEVERAL: Final = frozenset({"$in", "$nin", "$all"})
_AS_GIVEN: Final = frozenset({"$exists", "$size", "$type", "$mod"})
_TEXT_ONLY: Final = frozenset({"$regex", "$options"})
_OPERATORS: Final = sorted(_ONE_VALUE | _SEVERAL | _AS_GIVEN | _TEXT_ONLY | {"$not", "$elemMatch"})
#: Types whose BSON form is the same wherever they stand: what may be compared beneath a dotted path.
_UNCHANGED: Final = (str, int, float, bool, type(None), UUID, ObjectId)


def compile_filter(schema: Schema[Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The filter for MongoDB. Raise `QueryError` for anything that it could not answer exactly."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise QueryError(f"a filter is a dict such as {{{schema.identity.name!r}: …}}, not a {type(given).__name__}")
    compiled: dict[str, Any] = {}
    for name, condition in given.items():
        if name in _LOGICAL:
            if not isinstance(condition, Sequence) or isinstance(condition, str | bytes) or not condition:
                raise QueryError(f"{name} takes a list of filters, not an empty one")
            compiled[name] = [compile_filter(schema, each) for each in condition]
            continue
        if isinstance(name, str) and name.startswith("$"):
            raise QueryError(f"{name} is not served at the top of a filter. Served there: {', '.join(sorted(_LOGICAL))}")
        field, path = _field(schema, name)
        stored = field.stored + path
        if stored in compiled:
            raise QueryError(f"{name}: the field stands twice in one filter, under two names. Use $and")
        compiled[stored] = _condition(field, name, condition, beneath=bool(path))
    return compiled


def compile_sort(
    schema: Schema[Any], key: str | Sequence[Any] | Mapping[str, int], direction: int | None = None
) -> list[tuple[str, int]]:
    """pymongo's sort list, from a name, a list of names or ``(name, direction)`` pairs, or a dict. Raise `QueryError`."""
    if isinstance(key, str):
        pairs: Iterable[Any] = [(key, 1 if direction is None else direction)]
    else:
        pairs = key.items() if isinstance(key, Mapping) else [(each, 1) if isinstance(each, str) else each for each in key]
    compiled = []
    for name, way in pairs:
        if way not in (1, -1):
            raise QueryError(f"{name}: a direction is 1 or -1")
        field, path = _field(schema, name)
        compiled.append((field.stored + path, way))
    return compiled


def identity_value(schema: Schema[Any], value: Any) -> Any:
    """An ``_id`` as it is stored, from the model's id. Raise `QueryError` for None or a value of another type."""
    if value is None:
        raise QueryError(f"{schema.identity.name}: None names no document")
    return _value(schema.identity, schema.identity.name, value)


# ---------------------------------------------------------------------------------------------------------------------


def _field(schema: Schema[Any], name: object) -> tuple[StoredField, str]:
    """The field in the clear that a name means, and the dotted path beneath it."""
    if not isinstance(name, str):
        raise QueryError(f"a filter names fields by text, not by a {type(name).__name__}")
    top, dot, rest = name.partition(".")
    field = schema.field(top)
    if field is not None:
        return field, dot + rest
    model = schema.model.__name__
    if top in schema.sensitive:
        raise QueryError(
            f"{model}.{top} is sensitive: it is stored encrypted, and MongoDB cannot search or sort by it. "
            f"Mark it Queryable() if it may stand in the clear, or filter by {', '.join(schema.names)} and pick in Python"
        )
    near = difflib.get_close_matches(top, [*schema.names, *schema.sensitive], n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Fields that can be searched: {', '.join(schema.names)}"
    raise QueryError(f"{model} has no field {top[:64]!r}. {hint}")


def _condition(field: StoredField, name: str, condition: Any, *, beneath: bool) -> Any:
    bring = _unchanged if beneath else _value
    if isinstance(condition, re.Pattern):
        return _text_only(field, name, "a regular expression", condition)
    operators = isinstance(condition, Mapping) and any(isinstance(key, str) and key.startswith("$") for key in condition)
    if not operators:
        return bring(field, name, condition)
    return {operator: _operand(field, name, operator, operand, bring) for operator, operand in condition.items()}


_Bring = Callable[[StoredField, str, Any], Any]


def _operand(field: StoredField, name: str, operator: str, operand: Any, bring: _Bring) -> Any:
    beneath = bring is _unchanged
    if operator in _ONE_VALUE:
        return bring(field, name, operand)
    if operator in _SEVERAL:
        if isinstance(operand, str | bytes | Mapping) or not isinstance(operand, Iterable):
            raise QueryError(f"{name}: {operator} takes a list of values")
        return [bring(field, name, each) for each in operand]
    if operator in _AS_GIVEN:
        return operand
    if operator in _TEXT_ONLY:
        return _text_only(field, name, operator, operand)
    if operator == "$not" and isinstance(operand, Mapping | re.Pattern):
        return _condition(field, name, operand, beneath=beneath)
    if operator == "$elemMatch" and isinstance(operand, Mapping) and all(str(key).startswith("$") for key in operand):
        return _condition(field, name, operand, beneath=beneath)
    raise QueryError(f"{name}: {operator} is not served in this form. Served: {', '.join(_OPERATORS)}")


def _text_only(field: StoredField, name: str, what: str, value: Any) -> Any:
    if "string" not in field.node.kinds and "array" not in field.node.kinds and "object" not in field.node.kinds:
        raise QueryError(f"{name}: {what} searches text, and this field is a {field.node.label}")
    return value


def _value(field: StoredField, name: str, value: Any) -> Any:
    """The value as the field stores it: of its own type, of a form that converts to it, or an element of it."""
    if value is None:
        return None
    for bring in (_projected, _converted, _element):
        found = bring(field, value)
        if found is not _NOT:
            return found
    raise QueryError(
        f"{name}: this field is a {field.node.label}, and the filter's value is a {type(value).__name__} that is not one"
    )


_NOT: Final = object()


def _projected(field: StoredField, value: Any) -> Any:
    try:
        field.node.check(value)
    except Misfit:
        return _NOT
    return field.node.projected(value)


def _converted(field: StoredField, value: Any) -> Any:
    """``"2024-01-01"`` for a date, ``"active"`` for an enum, 5 for a Decimal. A bool is never a number."""
    if isinstance(value, bool):
        return _NOT
    try:
        converted = field.convert.validate_python(value)
    except (ValidationError, PydanticUseDefault, ValueError, TypeError, KeyError):
        return _NOT
    return _projected(field, converted)


def _element(field: StoredField, value: Any) -> Any:
    """A value that is one element of an array field, which MongoDB matches too."""
    if field.node.item is None:
        return _NOT
    return _value(StoredField(field.name, field.stored, field.node.item), field.name, value)


def _unchanged(field: StoredField, name: str, value: Any) -> Any:
    if isinstance(value, _UNCHANGED) or (isinstance(value, datetime) and value.tzinfo is not None):
        return value
    raise QueryError(
        f"{name}: beneath {field.name}, a {type(value).__name__} cannot be compared exactly. Filter by the whole field"
    )
