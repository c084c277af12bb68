"""What a filter or a sort may ask, and how it is put to MongoDB. Pure: names and values in, names and values out.

A filter names fields as the model does. What each name and value means is `places`; a condition on a field in the clear is put to
MongoDB as it is, one on a sensitive field with a blind index is rewritten by `search`. A name that is sensitive or unknown, an
operator that cannot be answered exactly, a value of another type: `QueryError`, with the field and the way out. Never a query that
silently finds nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import time
from decimal import Decimal
from enum import Enum, Flag
from typing import Any, Final

from bson import Regex
from pydantic import BaseModel

from .answer import has_operators, is_position
from .blind import Indexer
from .envelope import encodes
from .errors import QueryError
from .expression import compile_expression
from .lossless import Node
from .places import DISORDERED, OPERATORS, SEQUENCES, TEXTUAL, Place, beneath, meant, place, stored_name
from .schema import Schema
from .search import AllOf, AnyOf, Blind, Both, Clear, Compiled, NoneOf, Part, Pins

__all__ = ["compile_filter", "compile_search", "compile_sort"]

_RANGE: Final = frozenset({"$gt", "$gte", "$lt", "$lte"})
_ONE_VALUE: Final = _RANGE | {"$eq", "$ne"}
_SEVERAL: Final = frozenset({"$in", "$nin", "$all"})
_JOINED: Final[Mapping[str, Callable[[Sequence[Part]], Part]]] = {"$and": AllOf, "$or": AnyOf, "$nor": NoneOf}
#: MongoDB's names of the BSON types that a stored field can have.
_BSON_TYPES: Final = frozenset(
    {"double", "string", "object", "array", "binData", "objectId", "bool", "date", "null", "int", "long", "decimal", "number"}
)
#: At the top of a filter, and why not.
_UNSERVED: Final = {
    "$text": "a text index holds no encrypted field",
    "$where": "JavaScript would see the sealed document",
    "$jsonSchema": "it would speak of the sealed document",
}


def compile_filter(schema: Schema[Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The filter for MongoDB, of fields in the clear alone. Raise `QueryError` for anything that it could not answer exactly."""
    return compile_search(schema, given, None).server


def compile_search(schema: Schema[Any], given: Mapping[str, Any] | None, indexer: Indexer | None) -> Compiled:
    """The filter for MongoDB, and what is left to be sifted after decryption. Raise `QueryError`.

    ``indexer``: computes the values of blind indexes; without one, sensitive fields are refused.
    """
    if indexer and (compiled := Blind.at_once(schema, indexer, given)) is not None:
        return compiled
    if _is_deep(given):
        raise QueryError(_DEEP)
    try:
        return Compiled.of(Clear({}) if given is None else _search(schema, given, indexer, Pins(schema)))
    except RecursionError:
        pass
    raise QueryError(_DEEP)


_DEEP: Final = "a filter that is nested too deeply, or inside itself"
#: MongoDB takes about twice as many levels, after we have added ours.
_LEVELS: Final = 80


def _is_deep(given: object) -> bool:
    """Whether there are more dicts and lists inside one another than MongoDB takes."""
    level: list[object] = [given]
    for _ in range(_LEVELS):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, Mapping) else each if isinstance(each, list | tuple) else ())
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return False
    return True


def _search(schema: Schema[Any], given: object, indexer: Indexer | None, pins: Pins) -> Part:
    """A filter on whole documents."""
    _check_filter(given)
    assert isinstance(given, Mapping)  # noqa: S101 - checked; for mypy
    pins = pins.and_those_of(given)
    clear: dict[str, Any] = {}
    parts: list[Part] = []
    for name, condition in given.items():
        if name in _JOINED:
            within = [_search(schema, each, indexer, pins) for each in _filters(name, condition)]
            parts.append(_JOINED[name](within))
        elif name == "$expr":
            clear["$expr"] = compile_expression(lambda name: stored_name(schema, name), condition)
        elif indexer and (blind := Blind.on(schema, indexer, pins, name)) is not None:
            parts.append(blind.condition(condition))
        else:
            _put(clear, place(schema, _served(name)), condition)
    return Both([*([Clear(clear)] if clear else []), *parts]) if parts else Clear(clear)


def compile_sort(
    schema: Schema[Any], key: str | Sequence[Any] | Mapping[str, int], direction: int | None = None
) -> list[tuple[str, int]]:
    """pymongo's sort list, from a name, a list of names or ``(name, direction)`` pairs, or a dict. Raise `QueryError`."""
    if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and isinstance(key[1], int) and direction is None:
        key, direction = key  # one pair, not in a list
    if isinstance(key, str):
        pairs: list[Any] = [(key, 1 if direction is None else direction)]
    elif direction is not None or not isinstance(key, Sequence | Mapping) or not key:
        raise QueryError("a sort is by a name and a direction, or by a list of names or of (name, direction) pairs")
    else:
        pairs = list(key.items() if isinstance(key, Mapping) else key)
    compiled: dict[str, int] = {}
    for pair in pairs:
        name, way = pair if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2 else (pair, 1)
        if isinstance(name, str) and name.startswith(("-", "+")):
            raise QueryError(f"{name[:64]}: a sort names the field and the direction apart, as in sort({name[1:65]!r}, -1)")
        found = place(schema, name)
        if type(way) is not int or way not in (1, -1):
            raise QueryError(f"{found.name}: a direction is 1 or -1")
        if found.stored in compiled:
            raise QueryError(f"{found.name}: the field stands twice in one sort")
        if found.node is not None and any(issubclass(each, DISORDERED) for each in found.node.types):
            raise QueryError(f"{found.name}: a {found.node.label} is stored as text, whose order is not that of the values")
        compiled[found.stored] = way
    return list(compiled.items())


# ---------------------------------------------------------------------------------------------------------------------
# Conditions.


def _filter(find: Callable[[object], Place], given: object) -> dict[str, Any]:
    """A filter on the places that ``find`` finds: those of an array's element."""
    _check_filter(given)
    assert isinstance(given, Mapping)  # noqa: S101 - checked; for mypy
    compiled: dict[str, Any] = {}
    for name, condition in given.items():
        if name in _JOINED:
            compiled[name] = [_filter(find, each) for each in _filters(name, condition)]
        else:
            _put(compiled, find(_served(name)), condition)
    return compiled


def _check_filter(given: object) -> None:
    if not isinstance(given, Mapping):
        raise QueryError(f"a filter is a dict of names and conditions, not a {type(given).__name__}")


def _filters(name: str, given: object) -> Sequence[object]:
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        raise QueryError(f"{name} takes a list of filters with at least one in it")
    return given


def _served(name: object) -> object:
    if isinstance(name, str) and name.startswith("$"):
        why = f": {_UNSERVED[name]}" if name in _UNSERVED else ""
        raise QueryError(f"{name[:64]} is not served here{why}. Served: {', '.join(sorted(_JOINED))}, and $expr at the top")
    return name


def _put(compiled: dict[str, Any], on: Place, condition: Any) -> None:
    if on.stored in compiled:
        raise QueryError(f"{on.name}: the field stands twice in one filter, under two names. Use $and")
    compiled[on.stored] = _condition(on, condition)
    if not encodes(compiled[on.stored]):
        raise QueryError(f"{on.name}: a value that BSON cannot hold: an int beyond 64 bits, a lone surrogate, a NUL in a name")


def _condition(on: Place, condition: Any) -> Any:
    if isinstance(condition, re.Pattern):
        return _text_only(on, "a regular expression", condition)
    if has_operators(condition):
        return _operators(on, condition)
    return meant(on, condition).projected()


def _operators(on: Place, condition: Mapping[str, Any]) -> dict[str, Any]:
    if "$options" in condition and not (isinstance(condition.get("$regex"), str) and _are_options(condition["$options"])):
        raise QueryError(f"{on.name}: $options are letters of imsx, and go with a $regex that is text")
    return {operator: _operand(on, operator, operand) for operator, operand in condition.items()}


def _are_options(value: object) -> bool:
    return isinstance(value, str) and set(value) <= set("imsx")


def _operand(on: Place, operator: str, operand: Any) -> Any:
    if operator in _ONE_VALUE:
        wanted = meant(on, operand)
        if operator in _RANGE and not _has_order(wanted.value):
            raise QueryError(f"{on.name}: {operator} compares numbers, dates and text, and this value has no such order")
        return wanted.projected()
    if operator in _SEVERAL:
        if isinstance(operand, str | bytes | Mapping) or not isinstance(operand, Iterable):
            raise QueryError(f"{on.name}: {operator} takes a list of values")
        values = [meant(on, each).projected() for each in operand]
        if operator == "$all" and not values:
            raise QueryError(f"{on.name}: $all of no values matches nothing")
        return values
    if operator == "$not" and (has_operators(operand) or isinstance(operand, re.Pattern)):
        return _condition(on, operand)
    special = _SPECIAL.get(operator)
    if special is None:
        raise QueryError(f"{on.name}: {str(operator)[:64]} is not served in this form. Served: {', '.join(OPERATORS)}")
    return special(on, operator, operand)


def _exists(on: Place, operator: str, operand: Any) -> Any:
    if not isinstance(operand, bool):
        raise QueryError(f"{on.name}: {operator} takes True or False")
    return operand


def _type(on: Place, operator: str, operand: Any) -> Any:
    names = operand if isinstance(operand, list | tuple) else [operand]
    if not names or not all(isinstance(each, str) and each in _BSON_TYPES for each in names):
        raise QueryError(f"{on.name}: {operator} takes the name of a BSON type, or several: {', '.join(sorted(_BSON_TYPES))}")
    return operand


def _size(on: Place, operator: str, operand: Any) -> Any:
    if on.node is not None and not any(issubclass(each, SEQUENCES) for each in on.node.types):
        raise QueryError(f"{on.name}: {operator} counts the elements of an array, and this field is a {on.node.label}")
    if type(operand) is not int or operand < 0:
        raise QueryError(f"{on.name}: {operator} takes an int, 0 or more")
    return operand


def _mod(on: Place, operator: str, operand: Any) -> Any:
    if on.node is not None and not any(_is_number(each) for each in _innermost(on.node).types):
        raise QueryError(f"{on.name}: {operator} divides numbers, and this field is a {on.node.label}")
    pair = list(operand) if isinstance(operand, list | tuple) else []
    if [type(each) for each in pair] != [int, int] or not pair[0]:
        raise QueryError(f"{on.name}: {operator} takes [divisor, remainder], two ints")
    return pair


def _text_only(on: Place, what: str, value: Any) -> Any:
    if on.node is not None and not any(_stored_as_text(each) for each in _innermost(on.node).types):
        raise QueryError(f"{on.name}: {what} searches text, and this field is a {on.node.label}")
    pattern = value.pattern if isinstance(value, re.Pattern | Regex) else value
    if not isinstance(pattern, str) or "\0" in pattern:
        raise QueryError(f"{on.name}: {what} takes text without NUL, or a compiled regular expression of text")
    return value


def _elem_match(on: Place, operator: str, operand: Any) -> Any:
    item = on.node and on.node.item
    if on.node is not None and item is None:
        raise QueryError(f"{on.name}: {operator} looks at the elements of an array, and this field is a {on.node.label}")
    if not isinstance(operand, Mapping) or not operand:
        raise QueryError(f"{on.name}: {operator} takes conditions: operators, or fields of the elements")
    if has_operators(operand) and not operand.keys() & _JOINED.keys():
        return _operators(Place(on.name, on.stored, item), operand)
    return _filter(lambda name: _in_element(on, name), operand)


def _in_element(array: Place, name: object) -> Place:
    if not isinstance(name, str) or is_position(name):
        raise QueryError(f"{array.name}: $elemMatch names fields of the elements")
    on = functools.reduce(beneath, name.split("."), array)
    return Place(on.name, name, on.node)


_SPECIAL: Final[dict[str, Callable[[Place, str, Any], Any]]] = {
    "$exists": _exists,
    "$type": _type,
    "$size": _size,
    "$mod": _mod,
    "$regex": _text_only,
    "$options": _text_only,
    "$elemMatch": _elem_match,
}


def _innermost(node: Node) -> Node:
    """A condition on an array is one on its elements too."""
    return node if node.item is None else _innermost(node.item)


def _is_number(cls: type) -> bool:
    return issubclass(cls, int | float | Decimal) and cls is not bool


def _stored_as_text(cls: type) -> bool:
    if issubclass(cls, Enum):
        return not issubclass(cls, Flag) and any(type(member.value) is not int for member in cls)
    return issubclass(cls, (str, time, *TEXTUAL))


def _has_order(value: Any) -> bool:
    if isinstance(value, float | Decimal):
        return value == value if isinstance(value, float) else not value.is_nan()  # noqa: PLR0124 - NaN alone is not itself
    return not isinstance(value, (type(None), Mapping, BaseModel, *SEQUENCES, *DISORDERED)) and not (
        isinstance(value, time) and value.tzinfo is not None
    )
