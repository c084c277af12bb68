"""What a name and a value in a query mean: which place of a stored document, and which value in the type of that place. Pure.

A name is that of a field as the model has it or as it is stored, dotted or not. A value is brought to the type of its place from
the forms in which people write it, and projected as the stored one was. `query` and `search` put conditions on places; a name that
is sensitive or unknown, and a value of another type, is a `QueryError` with the way out.

Stored dates and durations are in whole milliseconds, rounded down, and a date without a zone is taken as UTC; those of a filter are
treated likewise, so two moments within one millisecond are equal to a query, as they are to MongoDB: ``$gt`` is "in a later
millisecond". A Decimal is stored with 34 digits.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from bson import Binary, Decimal128, Int64, ObjectId
from bson.binary import UUID_SUBTYPE
from pydantic import AnyUrl, BaseModel, ByteSize, RootModel, SecretBytes, SecretStr

from .answer import is_position, same
from .envelope import encodes
from .errors import MongoEnvelopeError, QueryError
from .lossless import Misfit, Node, Rewritten
from .lossless.classes import ADDRESSES
from .schema import Schema, is_exact, unknown_field

__all__ = [
    "DISORDERED",
    "OPERATORS",
    "SEQUENCES",
    "TEXTUAL",
    "Meant",
    "Place",
    "beneath",
    "from_stored",
    "identity_value",
    "meant",
    "place",
    "stored_name",
]

#: What a condition on one field may consist of.
OPERATORS: Final = (
    *("$all", "$elemMatch", "$eq", "$exists", "$gt", "$gte", "$in", "$lt", "$lte", "$mod", "$ne", "$nin", "$not"),
    *("$options", "$regex", "$size", "$type"),
)
SEQUENCES: Final = (list, tuple, set, frozenset, deque)
#: Classes that are stored as text, and made from it.
TEXTUAL: Final = (*ADDRESSES, Fraction, PurePath, ZoneInfo, AnyUrl)
#: Of these, whose order as text is not their own: "10.0.0.10" < "10.0.0.9".
DISORDERED: Final = (*ADDRESSES, Fraction)
#: Ids that need no second look, which is nearly all of them.
_STORED_AS_IT_IS: Final = frozenset({UUID, ObjectId})
#: Types whose BSON form is the same wherever they stand: what may be compared where the type of the place is not known.
_UNCHANGED: Final = (str, int, float, bool, type(None), UUID, ObjectId)


@dataclass(frozen=True, slots=True)
class Place:
    """One place in a stored document that a filter may name: a field in the clear, or what stands beneath one."""

    name: str  #: as the filter says it, for messages
    stored: str
    node: Node | None  #: None beneath a dict, a dataclass, a union: there names and types are not known
    identity: bool = False


def identity_value(schema: Schema[Any], value: Any) -> Any:
    """An ``_id`` as it is stored, from the model's id. Raise `QueryError` for None or a value of another type."""
    if type(value) in _STORED_AS_IT_IS and type(value) in schema.identity.node.types:
        return value
    where = place(schema, schema.identity.name)
    if value is None:
        raise QueryError(f"{where.name}: None names no document")
    if isinstance(value, schema.model):
        raise QueryError(f"{where.name}: a whole {schema.model.__name__} was given where its {where.name} is wanted")
    wanted = meant(where, value)
    projected = wanted.projected()
    if where.node is not None and where.node.rounds and not is_exact(wanted.value):
        raise QueryError(f"{where.name}: BSON rounds this value, so that two ids could be one")
    if not encodes(projected) or (isinstance(projected, Mapping) and any(key.startswith("$") for key in projected)):
        raise QueryError(f"{where.name}: the value cannot be an _id: BSON cannot hold it, or MongoDB takes it for operators")
    return projected


def stored_name(schema: Schema[Any], name: str) -> str:
    """How a field in the clear, dotted or not, is called in MongoDB. Raise `QueryError` for one that is not in the clear."""
    return place(schema, name).stored


def from_stored(schema: Schema[Any], name: str, stored: Any) -> Any:
    """A stored value of a field, or of an element of it, in the field's own type where that type has one such value.

    Otherwise as BSON has it: what BSON rounds is rounded, and a value that the model no longer knows is not hidden.
    """
    node = place(schema, name).node
    stored = int(stored) if isinstance(stored, Int64) else stored
    if node is not None and (member := _member(node, stored)) is not None:
        return member
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


def _member(node: Node, stored: Any) -> Any:
    """The member of an enumeration that is stored by its name, because its values are of several types."""
    for cls in (each for each in (node.item or node).types if issubclass(each, Enum)):
        member = cls.__members__.get(stored) if type(stored) is str else None
        if member is not None and (node.item or node).projected(member) == stored:
            return member
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Names.


def place(schema: Schema[Any], name: object) -> Place:
    """What a name means, in Python or in MongoDB, dotted or not."""
    if not isinstance(name, str):
        raise QueryError(f"fields are named by text, not by a {type(name).__name__}")
    top, *steps = name.split(".")
    return functools.reduce(beneath, steps, _top(schema, top))


def _top(schema: Schema[Any], name: str) -> Place:
    field = schema.field(name)
    if field is not None:
        return Place(name, field.stored, field.node, identity=field is schema.identity)
    model = schema.model.__name__
    if schema.blind_on(name):
        raise QueryError(
            f"{model}.{name} is sensitive: its blind index serves filters of find, count, exists, distinct and delete_many; "
            "MongoDB cannot sort by it or compute with it"
        )
    if name in schema.sensitive:
        raise QueryError(
            f"{model}.{name} is sensitive: it is stored encrypted, and MongoDB cannot search or sort by it. "
            "Sensitive(index=BlindIndex()) makes it searchable for equal values, Queryable() puts it in the clear; or filter by "
            f"{', '.join(schema.names)} and pick in Python"
        )
    raise QueryError(
        unknown_field(
            model,
            name,
            [*schema.names, *schema.sensitive],
            _searched([*schema.names, *sorted({each.owner.field for each in schema.blind})]),
        )
    )


def _searched(names: Iterable[str]) -> str:
    return f"Fields that can be searched: {', '.join(names)}"


def beneath(on: Place, step: str) -> Place:
    """One step down a dotted path: a field of a nested model, a position in an array, or a key of a dict."""
    if not step or step.startswith("$") or not encodes({step: None}):
        raise QueryError(f"{on.name}: a dotted path goes on with {step[:64]!r}, which is no name")
    node = on.node
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
                raise QueryError(f"{on.name}: " + unknown_field(held[0].__name__, step, fields, _searched(fields)))
            inside = fields[step]
        elif not any(issubclass(each, BaseModel | Mapping | tuple) or is_dataclass(each) for each in held):
            raise QueryError(f"{on.name}: nothing stands beneath a {node.label}")
        elif any(issubclass(each, Mapping) for each in held) and node.kinds <= {"array", "null"}:
            raise QueryError(f"{on.name}: a {node.label} whose keys are not text is stored as pairs, and has no names beneath")
    return Place(f"{on.name}.{step}", f"{on.stored}.{step}", inside)


@functools.lru_cache(maxsize=256)
def _fields_of(model: type[BaseModel]) -> Mapping[str, Node]:
    return Rewritten(model).fields


# ---------------------------------------------------------------------------------------------------------------------
# Values.

_NOT: Final = object()


@dataclass(frozen=True, slots=True)
class Meant:
    """A filter's value, in the type of the place that it is compared with."""

    place: Place
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


def meant(on: Place, value: Any) -> Meant:
    """The value in the place's own type or in that of its elements: as it is, or from a form in which people write it."""
    if on.node is None:
        if isinstance(value, _UNCHANGED) or (isinstance(value, datetime) and value.tzinfo is not None):
            return Meant(on, None, value)
        raise QueryError(f"{on.name}: here a {type(value).__name__} cannot be compared exactly. Filter by the whole field")
    for node in (on.node, on.node.item):  # of a list of lists, MongoDB compares the list and its elements, and goes no deeper
        if node is not None and not (on.identity and value is None):
            found = _brought(node, value)
            if found is not _NOT:
                return Meant(on, node, found)
    label = on.node.label
    if value is None:
        raise QueryError(f'{on.name}: a {label} here is never None. For documents without the field: {{"$exists": False}}')
    hint = ""
    if isinstance(value, dict):
        hint = f". Filter by {on.name}.<field>, or by all fields with their exact types"
        if near := [f"${name}" for name in value if f"${name}" in OPERATORS]:
            hint = f". Operators begin with $: {', '.join(near)}"
    raise QueryError(f"{on.name}: this field is a {label}, and the value given is a {type(value).__name__} that is not one{hint}")


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
    elif isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16 and not _fits(node, value):
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
    if issubclass(cls, SEQUENCES) and kind in SEQUENCES:
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
    (Fraction, (str,), lambda cls, text: _NOT if "e" in text.lower() else cls(text)),  # 1e99999999 would take all memory
    ((UUID, ObjectId, SecretStr, *TEXTUAL), (str,), lambda cls, text: cls(text)),
    (SecretBytes, (bytes,), lambda cls, data: cls(data)),
)
