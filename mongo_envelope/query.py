"""What a filter or a sort may ask, and how it is put to MongoDB. Pure: names and values in, names and values out.

A filter names fields as the model does. Each value is brought to the field's type (`_meant`) and projected as the stored
one was, so that what matches is what a person means. A name that is sensitive or unknown, an operator that cannot be answered
exactly, a value of another type: `QueryError`, with the field and the way out. Never a query that silently finds nothing.

Stored dates and durations are in whole milliseconds, rounded down, and a date without a zone is taken as UTC; those of a filter
are treated likewise, so two moments within one millisecond are equal to a query, as they are to MongoDB: ``$gt`` is "in a later
millisecond". A Decimal is stored with 34 digits.

Blind indexes will be served from here: `_top` is the one place where a sensitive name is refused.
"""

from __future__ import annotations

import copy
import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.binary import UUID_SUBTYPE
from pydantic import AnyUrl, BaseModel, ByteSize, RootModel

from .answer import has_operators, is_position, same
from .envelope import encodes
from .errors import MongoEnvelopeError, QueryError
from .lossless import Misfit, Node, Rewritten
from .lossless.classes import ADDRESSES
from .schema import Schema, is_exact, unknown_field

__all__ = ["compile_filter", "compile_sort", "from_stored", "identity_value", "stored_name"]

_LOGICAL: Final = frozenset({"$and", "$or", "$nor"})
_RANGE: Final = frozenset({"$gt", "$gte", "$lt", "$lte"})
_ONE_VALUE: Final = _RANGE | {"$eq", "$ne"}
_SEVERAL: Final = frozenset({"$in", "$nin", "$all"})
_OPERATORS: Final = sorted(
    _ONE_VALUE | _SEVERAL | {"$exists", "$size", "$type", "$mod", "$regex", "$options", "$not", "$elemMatch"}
)
#: MongoDB's names of the BSON types that a stored field can have.
_BSON_TYPES: Final = frozenset(
    {"double", "string", "object", "array", "binData", "objectId", "bool", "date", "null", "int", "long", "decimal", "number"}
)
_SEQUENCES: Final = (list, tuple, set, frozenset, deque)
#: Classes that are stored as text, and made from it.
_TEXTUAL: Final = (*ADDRESSES, Fraction, PurePath, ZoneInfo, AnyUrl)
#: Of these, whose order as text is not their own: "10.0.0.10" < "10.0.0.9".
_DISORDERED: Final = (*ADDRESSES, Fraction)
#: Ids that need no second look, which is nearly all of them.
_STORED_AS_IT_IS: Final = frozenset({UUID, ObjectId})
#: Types whose BSON form is the same wherever they stand: what may be compared where the type of the place is not known.
_UNCHANGED: Final = (str, int, float, bool, type(None), UUID, ObjectId)


@dataclass(frozen=True, slots=True)
class _Place:
    """One place in a stored document that a filter may name: a field in the clear, or what stands beneath one."""

    name: str  #: as the filter says it, for messages
    stored: str
    node: Node | None  #: None beneath a dict, a dataclass, a union: there names and types are not known
    identity: bool = False


def compile_filter(schema: Schema[Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The filter for MongoDB. Raise `QueryError` for anything that it could not answer exactly."""
    try:
        return {} if given is None else _filter(lambda name: _place(schema, name), given)
    except RecursionError:
        pass
    raise QueryError("a filter that is nested too deeply, or inside itself")


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
        place = _place(schema, name)
        if type(way) is not int or way not in (1, -1):
            raise QueryError(f"{place.name}: a direction is 1 or -1")
        if place.stored in compiled:
            raise QueryError(f"{place.name}: the field stands twice in one sort")
        if place.node is not None and any(issubclass(each, _DISORDERED) for each in place.node.types):
            raise QueryError(f"{place.name}: a {place.node.label} is stored as text, whose order is not that of the values")
        compiled[place.stored] = way
    return list(compiled.items())


def identity_value(schema: Schema[Any], value: Any) -> Any:
    """An ``_id`` as it is stored, from the model's id. Raise `QueryError` for None or a value of another type."""
    if type(value) in _STORED_AS_IT_IS and type(value) in schema.identity.node.types:
        return value
    place = _place(schema, schema.identity.name)
    if value is None:
        raise QueryError(f"{place.name}: None names no document")
    if isinstance(value, schema.model):
        raise QueryError(f"{place.name}: a whole {schema.model.__name__} was given where its {place.name} is wanted")
    meant = _meant(place, value)
    projected = meant.projected()
    if place.node is not None and place.node.rounds and not is_exact(meant.value):
        raise QueryError(f"{place.name}: BSON rounds this value, so that two ids could be one")
    if not encodes(projected) or (isinstance(projected, Mapping) and any(key.startswith("$") for key in projected)):
        raise QueryError(f"{place.name}: the value cannot be an _id: BSON cannot hold it, or MongoDB takes it for operators")
    return projected


def stored_name(schema: Schema[Any], name: str) -> str:
    """How a field in the clear, dotted or not, is called in MongoDB. Raise `QueryError` for one that is not in the clear."""
    return _place(schema, name).stored


def from_stored(schema: Schema[Any], name: str, stored: Any) -> Any:
    """A stored value of a field, or of an element of it, in the field's own type where that type has one such value.

    Otherwise as BSON has it: what BSON rounds is rounded, and a value that the model no longer knows is not hidden.
    """
    node = _place(schema, name).node
    stored = int(stored) if isinstance(stored, Int64) else stored
    while node is not None:
        try:
            number = timedelta(milliseconds=stored) if type(stored) is int and timedelta in node.types else stored
            found = _brought(node, number)
            if found is not _NOT and same(node.projected(found), stored):
                return found
        except (Misfit, MongoEnvelopeError, ArithmeticError, ValueError):  # nobody has verified it: it can be anything
            pass
        node = node.item
    return stored


# ---------------------------------------------------------------------------------------------------------------------
# Names.


def _place(schema: Schema[Any], name: object) -> _Place:
    """What a name means, in Python or in MongoDB, dotted or not."""
    if not isinstance(name, str):
        raise QueryError(f"fields are named by text, not by a {type(name).__name__}")
    top, *steps = name.split(".")
    place = _top(schema, top)
    for step in steps:
        place = _beneath(place, step)
    return place


def _top(schema: Schema[Any], name: str) -> _Place:
    field = schema.field(name)
    if field is not None:
        return _Place(name, field.stored, field.node, identity=field is schema.identity)
    model = schema.model.__name__
    if name in schema.sensitive:
        raise QueryError(
            f"{model}.{name} is sensitive: it is stored encrypted, and MongoDB cannot search or sort by it. "
            f"Mark it Queryable() if it may stand in the clear, or filter by {', '.join(schema.names)} and pick in Python"
        )
    raise QueryError(unknown_field(model, name, [*schema.names, *schema.sensitive], _searched(schema.names)))


def _searched(names: Iterable[str]) -> str:
    return f"Fields that can be searched: {', '.join(names)}"


def _beneath(place: _Place, step: str) -> _Place:
    """One step down a dotted path: a field of a nested model, a position in an array, or a key of a dict."""
    if not step or step.startswith("$") or not encodes({step: None}):
        raise QueryError(f"{place.name}: a dotted path goes on with {step[:64]!r}, which is no name")
    node = place.node
    while node is not None and node.item is not None and not is_position(step):
        node = node.item  # MongoDB looks into each element
    inside: Node | None = None
    if node is not None:
        held = [each for each in node.types if each is not type(None)]
        if node.item is not None:
            inside = node.item
        elif len(held) == 1 and issubclass(held[0], BaseModel) and not issubclass(held[0], RootModel):
            fields = _fields_of(held[0])
            if step not in fields:
                raise QueryError(f"{place.name}: " + unknown_field(held[0].__name__, step, fields, _searched(fields)))
            inside = fields[step]
        elif not any(issubclass(each, BaseModel | Mapping | tuple) or is_dataclass(each) for each in held):
            raise QueryError(f"{place.name}: nothing stands beneath a {node.label}")
        elif any(issubclass(each, Mapping) for each in held) and node.kinds <= {"array", "null"}:
            raise QueryError(f"{place.name}: a {node.label} whose keys are not text is stored as pairs, and has no names beneath")
    return _Place(f"{place.name}.{step}", f"{place.stored}.{step}", inside)


@functools.lru_cache(maxsize=256)
def _fields_of(model: type[BaseModel]) -> Mapping[str, Node]:
    return Rewritten(model).fields


# ---------------------------------------------------------------------------------------------------------------------
# Conditions.


def _filter(find: Callable[[object], _Place], given: object) -> dict[str, Any]:
    """A filter on the places that ``find`` finds: those of a document, or those of an array's element."""
    if not isinstance(given, Mapping):
        raise QueryError(f"a filter is a dict of names and conditions, not a {type(given).__name__}")
    compiled: dict[str, Any] = {}
    for name, condition in given.items():
        if isinstance(name, str) and name in _LOGICAL:
            if not isinstance(condition, Sequence) or isinstance(condition, str | bytes) or not condition:
                raise QueryError(f"{name} takes a list of filters with at least one in it")
            compiled[name] = [_filter(find, each) for each in condition]
            continue
        if isinstance(name, str) and name.startswith("$"):
            raise QueryError(f"{name[:64]} is not served at the top of a filter. Served there: {', '.join(sorted(_LOGICAL))}")
        place = find(name)
        if place.stored in compiled:
            raise QueryError(f"{place.name}: the field stands twice in one filter, under two names. Use $and")
        compiled[place.stored] = _condition(place, condition)
        if not encodes(compiled[place.stored]):
            raise QueryError(
                f"{place.name}: a value that BSON cannot hold: an int beyond 64 bits, a lone surrogate, a NUL in a name"
            )
    return compiled


def _condition(place: _Place, condition: Any) -> Any:
    if isinstance(condition, re.Pattern):
        return _text_only(place, "a regular expression", condition)
    if has_operators(condition):
        return _operators(place, condition)
    return _meant(place, condition).projected()


def _operators(place: _Place, condition: Mapping[str, Any]) -> dict[str, Any]:
    if "$options" in condition and not (isinstance(condition.get("$regex"), str) and _are_options(condition["$options"])):
        raise QueryError(f"{place.name}: $options are letters of imsx, and go with a $regex that is text")
    return {operator: _operand(place, operator, operand) for operator, operand in condition.items()}


def _are_options(value: object) -> bool:
    return isinstance(value, str) and set(value) <= set("imsx")


def _operand(place: _Place, operator: str, operand: Any) -> Any:
    if operator in _ONE_VALUE:
        meant = _meant(place, operand)
        if operator in _RANGE and not _has_order(meant.value):
            raise QueryError(f"{place.name}: {operator} compares numbers, dates and text, and this value has no such order")
        return meant.projected()
    if operator in _SEVERAL:
        if isinstance(operand, str | bytes | Mapping) or not isinstance(operand, Iterable):
            raise QueryError(f"{place.name}: {operator} takes a list of values")
        values = [_meant(place, each).projected() for each in operand]
        if operator == "$all" and not values:
            raise QueryError(f"{place.name}: $all of no values matches nothing")
        return values
    if operator == "$not" and (has_operators(operand) or isinstance(operand, re.Pattern)):
        return _condition(place, operand)
    special = _SPECIAL.get(operator)
    if special is None:
        raise QueryError(f"{place.name}: {str(operator)[:64]} is not served in this form. Served: {', '.join(_OPERATORS)}")
    return special(place, operator, operand)


def _exists(place: _Place, operator: str, operand: Any) -> Any:
    if not isinstance(operand, bool):
        raise QueryError(f"{place.name}: {operator} takes True or False")
    return operand


def _type(place: _Place, operator: str, operand: Any) -> Any:
    names = operand if isinstance(operand, list | tuple) else [operand]
    if not names or not all(isinstance(each, str) and each in _BSON_TYPES for each in names):
        raise QueryError(f"{place.name}: {operator} takes the name of a BSON type, or several: {', '.join(sorted(_BSON_TYPES))}")
    return operand


def _size(place: _Place, operator: str, operand: Any) -> Any:
    if place.node is not None and not any(issubclass(each, _SEQUENCES) for each in place.node.types):
        raise QueryError(f"{place.name}: {operator} counts the elements of an array, and this field is a {place.node.label}")
    if type(operand) is not int or operand < 0:
        raise QueryError(f"{place.name}: {operator} takes an int, 0 or more")
    return operand


def _mod(place: _Place, operator: str, operand: Any) -> Any:
    if place.node is not None and not any(_is_number(each) for each in _innermost(place.node).types):
        raise QueryError(f"{place.name}: {operator} divides numbers, and this field is a {place.node.label}")
    pair = list(operand) if isinstance(operand, list | tuple) else []
    if [type(each) for each in pair] != [int, int] or not pair[0]:
        raise QueryError(f"{place.name}: {operator} takes [divisor, remainder], two ints")
    return pair


def _text_only(place: _Place, what: str, value: Any) -> Any:
    if place.node is not None and not any(_stored_as_text(each) for each in _innermost(place.node).types):
        raise QueryError(f"{place.name}: {what} searches text, and this field is a {place.node.label}")
    pattern = value.pattern if isinstance(value, re.Pattern | Regex) else value
    if not isinstance(pattern, str) or "\0" in pattern:
        raise QueryError(f"{place.name}: {what} takes text without NUL, or a compiled regular expression of text")
    return value


def _elem_match(place: _Place, operator: str, operand: Any) -> Any:
    item = place.node and place.node.item
    if place.node is not None and item is None:
        raise QueryError(f"{place.name}: {operator} looks at the elements of an array, and this field is a {place.node.label}")
    if not isinstance(operand, Mapping) or not operand:
        raise QueryError(f"{place.name}: {operator} takes conditions: operators, or fields of the elements")
    if has_operators(operand) and not operand.keys() & _LOGICAL:
        return _operators(_Place(place.name, place.stored, item), operand)
    return _filter(lambda name: _in_element(place, name), operand)


def _in_element(array: _Place, name: object) -> _Place:
    if not isinstance(name, str) or is_position(name):
        raise QueryError(f"{array.name}: $elemMatch names fields of the elements")
    place = functools.reduce(_beneath, name.split("."), array)
    return _Place(place.name, name, place.node)


_SPECIAL: Final[dict[str, Callable[[_Place, str, Any], Any]]] = {
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
    return issubclass(cls, (str, time, *_TEXTUAL))


def _has_order(value: Any) -> bool:
    if isinstance(value, float | Decimal):
        return value == value if isinstance(value, float) else not value.is_nan()  # noqa: PLR0124 - NaN alone is not itself
    return not isinstance(value, (type(None), Mapping, BaseModel, *_SEQUENCES, *_DISORDERED)) and not (
        isinstance(value, time) and value.tzinfo is not None
    )


# ---------------------------------------------------------------------------------------------------------------------
# Values.

_NOT: Final = object()


@dataclass(frozen=True, slots=True)
class _Meant:
    """A filter's value, in the type of the place that it is compared with."""

    place: _Place
    node: Node | None
    value: Any

    def projected(self) -> Any:
        """Its BSON form. Refused where that stands for another value, or is one of several."""
        if self.node is None:
            return self.value
        try:
            projected = self.node.projected(self.value)
        except Misfit as misfit:
            projected, problem = _NOT, misfit.problem
        if projected is _NOT:
            raise QueryError(f"{self.place.name}: {problem}")
        if isinstance(self.value, Decimal) and not self.value.is_nan() and projected.to_decimal() != self.value:
            raise QueryError(f"{self.place.name}: a Decimal that 34 digits cannot hold exactly")
        if isinstance(self.value, dict) and list(projected) != list(self.node.projected(_reversed(self.value))):
            name = self.place.name
            raise QueryError(f"{name}: MongoDB compares dicts in the order of their keys. Filter by {name}.<key>")
        return projected


def _reversed(given: dict[Any, Any]) -> dict[Any, Any]:
    other = copy.copy(given)  # of the same class
    other.clear()
    for key, value in reversed(given.items()):
        other[key] = value
    return other


def _meant(place: _Place, value: Any) -> _Meant:
    """The value in the place's own type or in that of its elements: as it is, or from a form in which people write it."""
    if place.node is None:
        if isinstance(value, _UNCHANGED) or (isinstance(value, datetime) and value.tzinfo is not None):
            return _Meant(place, None, value)
        raise QueryError(f"{place.name}: here a {type(value).__name__} cannot be compared exactly. Filter by the whole field")
    node: Node | None = place.node
    while node is not None and not (place.identity and value is None):
        found = _brought(node, value)
        if found is not _NOT:
            return _Meant(place, node, found)
        node = node.item
    label = place.node.label
    if value is None:
        raise QueryError(f'{place.name}: a {label} here is never None. For documents without the field: {{"$exists": False}}')
    hint = ""
    if isinstance(value, dict):
        hint = f". Filter by {place.name}.<field>, or by all fields with their exact types"
        if meant := [f"${name}" for name in value if f"${name}" in _OPERATORS]:
            hint = f". Operators begin with $: {', '.join(meant)}"
    raise QueryError(
        f"{place.name}: this field is a {label}, and the value given is a {type(value).__name__} that is not one{hint}"
    )


def _fits(node: Node, value: Any) -> bool:
    try:
        node.check(value)
    except Misfit:
        return False
    return True


def _brought(node: Node, value: Any) -> Any:
    """The value as one of the node's types, or `_NOT`: also where two of them could be meant."""
    if isinstance(value, Int64):  # what pymongo reads a larger int as, and, by default, a UUID
        value = int(value)
    elif isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and not _fits(node, value):
        value = value.as_uuid()
    if _fits(node, value):
        return value
    if isinstance(value, Enum):  # of another class than the field's, if that is an enum
        return _NOT if any(issubclass(each, Enum) for each in node.types) else _brought(node, value.value)
    if isinstance(value, bool):
        return _NOT  # never a number
    found = [each for cls in node.types for each in _forms(node, cls, value) if _fits(node, each)]
    return found[0] if len(found) == 1 else _NOT


def _forms(node: Node, cls: type, value: Any) -> Iterator[Any]:
    """What ``value`` may mean as a ``cls``."""
    try:
        yield _form(node, cls, value)
    except Exception:  # noqa: BLE001 - InvalidId, ValidationError, what a user's validator raises: all quote the value
        return


def _form(node: Node, cls: type, value: Any) -> Any:
    kind = type(value)
    if issubclass(cls, _SEQUENCES) and kind in _SEQUENCES:
        item = node.item
        return cls(value) if item is None else cls([_brought(item, each) for each in value])
    if kind is dict and issubclass(cls, BaseModel) and value.keys() == cls.model_fields.keys():
        return cls.model_validate(value, strict=True, extra="forbid", by_name=True, by_alias=False)
    if issubclass(cls, Enum):
        return cls(value)
    for target, sources, make in _CONVERSIONS:
        if issubclass(cls, target) and kind in sources:
            return make(cls, value)
    return _NOT


def _day(at: datetime) -> Any:
    """The day that begins at this moment, in UTC, like all without a zone."""
    utc = at.replace(tzinfo=UTC) if at.utcoffset() is None else at.astimezone(UTC)
    return utc.date() if utc.time() == time() else _NOT


_Make = Callable[[Any, Any], Any]
#: a class, the types of other values that it can be made from, and how
_CONVERSIONS: Final[tuple[tuple[type | tuple[type, ...], tuple[type, ...], _Make], ...]] = (
    (datetime, (str,), lambda _, text: datetime.fromisoformat(text)),
    (datetime, (date,), lambda _, day: datetime(day.year, day.month, day.day)),  # noqa: DTZ001 - UTC, like all without a zone
    (date, (str,), lambda _, text: date.fromisoformat(text)),
    (date, (datetime,), lambda cls, at: _NOT if issubclass(cls, datetime) else _day(at)),
    (time, (str,), lambda _, text: time.fromisoformat(text)),
    (Decimal, (Decimal128,), lambda _, number: number.to_decimal()),
    (Decimal, (int, str), lambda _, number: Decimal(number)),
    (Decimal, (float,), lambda _, number: Decimal(repr(number))),
    (int, (float,), lambda _, number: int(number) if number.is_integer() else _NOT),
    (ByteSize, (int,), lambda cls, number: cls(number)),
    ((bytes, bytearray), (bytes, bytearray), lambda cls, data: cls(data)),
    ((bytes, bytearray), (Binary,), lambda cls, data: cls(data) if data.subtype == 0 else _NOT),
    ((UUID, ObjectId, *_TEXTUAL), (str,), lambda cls, text: cls(text)),
)
