"""Which documents a filter matches, as MongoDB would say it: for filters that the server could answer only in part. Pure.

A blind index that is cut short or put in buckets lets the server find too much. The rest is decided here, after decryption, on
the twin document: what an unencrypted twin of the stored document would hold. So the answer has to be MongoDB's own, or none:
whatever this room does not evaluate exactly, it names (`unserved`) and refuses (`Matcher`).

The rules (manual: Query an Array, Query for Null or Missing Fields, Comparison/Sort Order), under the simple collation:

- a path looks into each document of an array, and at a position if the step is one. What it comes to is put to the operator, an
  array as its elements and as a whole: not, though, one that stands at a position;
- a document on the way that lacks the next step, or holds a scalar there, gives "missing", which null is equal to. An element of
  an array that is no document gives nothing at all;
- $ne, $nin and $not deny the whole of that: no value on the path may match;
- $gt, $gte, $lt and $lte compare within one type: numbers of all types with each other, text by its bytes in UTF-8 (the order of
  the code points, which is Python's), binary by length, subtype and bytes. NaN is as great as NaN, and has no other order;
- $size and $elemMatch take arrays as a whole. What $elemMatch says is put to each element as it is, so that an array in the array
  is one value; as fields, a document whose names are the positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import bson
from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.binary import OLD_BINARY_SUBTYPE, UUID_SUBTYPE
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError

from . import envelope
from .answer import comparable, has_operators
from .errors import QueryError

__all__ = ["Matcher", "unserved"]

#: Whether a document matches; inside $elemMatch, whether an element does.
_Check = Callable[[Any], bool]
_Test = Callable[[Any], bool]


class _Place(Protocol):
    """Makes a check of a test of single values: what a path comes to passes if one of them does.

    Of an array at its end these are the elements and the array; only the array if it is to be taken as a whole.
    """

    def __call__(self, test: _Test, /, *, whole: bool = False) -> _Check: ...


_MISSING: Final = object()

#: The classes that BSON is decoded to, and what $type calls them. Values of others are equal to nothing that can be asked for.
_TYPES: Final[Mapping[type, str]] = {
    float: "double",
    str: "string",
    dict: "object",
    list: "array",
    bytes: "binData",
    Binary: "binData",
    UUID: "binData",
    ObjectId: "objectId",
    bool: "bool",
    datetime: "date",
    DatetimeMS: "date",
    type(None): "null",
    int: "int",
    Int64: "long",
    Decimal128: "decimal",
}
_NUMBERS: Final = frozenset({"double", "int", "long", "decimal"})
_ALIASES: Final[Mapping[str, frozenset[str]]] = {name: frozenset({name}) for name in _TYPES.values()} | {"number": _NUMBERS}

_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class Matcher:
    """A filter, to be put to documents. Immutable."""

    def __init__(self, compiled: Mapping[str, Any]) -> None:
        """Take a filter as `query.compile_filter` gives it. Raise `QueryError` if part of it is `unserved`."""
        self._check, problem = _compiled(compiled)
        if problem is not None:
            raise QueryError(
                f"{'.'.join(problem.path) or 'the filter'}: {problem.what} cannot be answered exactly from decrypted documents. "
                f"Served there: {', '.join(sorted(_SERVED))}; for the rest, filter by these and pick in Python"
            )

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether MongoDB would find it. ``document``: as `bson.decode` gives it with `envelope.CODEC_OPTIONS`."""
        return self._check(document)


def unserved(compiled: Mapping[str, Any]) -> str | None:
    """The first operator of a filter that cannot be evaluated exactly as MongoDB does, None if all of it can."""
    problem = _compiled(compiled)[1]
    return None if problem is None else problem.what


class _UnservedError(Exception):
    """What is not served, and the path to it. It never leaves this room."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []


def _compiled(given: Mapping[str, Any]) -> tuple[_Check, _UnservedError | None]:
    """The filter as a function, or what speaks against it."""
    try:
        # As the server reads it: dates in milliseconds, a compiled pattern as a Regex.
        encoded = bson.encode(given, codec_options=envelope.CODEC_OPTIONS)
        as_read: dict[str, Any] = bson.decode(encoded, envelope.CODEC_OPTIONS)
        return _filter(as_read), None
    except _UnservedError as error:
        return _never, error
    except (BSONError, ValueError, OverflowError, RecursionError):  # they quote the value
        pass
    raise QueryError("a filter with a value that BSON cannot hold, or one that is nested too deeply")


def _never(_: Any) -> bool:
    return False


def _every(checks: list[_Check]) -> _Check:
    return checks[0] if len(checks) == 1 else lambda given: all(check(given) for check in checks)


def _some(checks: list[_Check]) -> _Check:
    return lambda given: any(check(given) for check in checks)


def _no(check: _Check) -> _Check:
    return lambda given: not check(given)


# ---------------------------------------------------------------------------------------------------------------------
# Filters: names and conditions.


def _filter(given: Mapping[str, Any]) -> _Check:
    return _every([_part(name, condition) for name, condition in given.items()])


def _part(name: str, condition: Any) -> _Check:
    if name in ("$and", "$or", "$nor"):
        if type(condition) is not list or not condition or not all(type(each) is dict for each in condition):
            raise _UnservedError(f"{name} of anything but a list of filters")
        parts = [_filter(each) for each in condition]
        return _every(parts) if name == "$and" else _some(parts) if name == "$or" else _no(_some(parts))
    if name.startswith("$"):
        raise _UnservedError(name)
    steps = name.split(".")
    if not all(steps) or any(step.startswith("$") for step in steps):
        raise _UnservedError("a path with a step that is empty or begins with $")
    try:
        return _condition(_at_the_end_of(steps), condition)
    except _UnservedError as error:
        error.path.insert(0, name)
        raise


def _condition(place: _Place, condition: Any) -> _Check:
    if type(condition) is Regex:
        raise _UnservedError("$regex")
    if has_operators(condition):
        return _operators(place, condition)
    return place(_equal("$eq", [condition]))


def _operators(place: _Place, condition: Mapping[str, Any]) -> _Check:
    """All operators on one place. The server does not say what a name among them means, and neither does this room."""
    checks: list[_Check] = []
    for name, operand in condition.items():
        if name in _ORDERS:
            checks.append(place(_ordered(name, operand)))
        elif name in _CONDITIONS:
            checks.append(_CONDITIONS[name](place, name, operand))
        else:
            raise _UnservedError(name if name.startswith("$") else "names beside operators")
    return _every(checks)


def _eq(place: _Place, name: str, operand: Any) -> _Check:
    return place(_equal(name, [operand]))


def _ne(place: _Place, name: str, operand: Any) -> _Check:
    return _no(_eq(place, name, operand))


def _in(place: _Place, name: str, operand: Any) -> _Check:
    return place(_equal(name, _listed(name, operand)))


def _nin(place: _Place, name: str, operand: Any) -> _Check:
    return _no(_in(place, name, operand))


def _all(place: _Place, name: str, operand: Any) -> _Check:
    values = _listed(name, operand)
    return _every([_eq(place, name, each) for each in values]) if values else _never


def _listed(name: str, operand: Any) -> list[Any]:
    if type(operand) is not list:
        raise _UnservedError(f"{name} of anything but a list")
    for each in operand:
        if type(each) is Regex:
            raise _UnservedError("$regex")
        if has_operators(each):
            raise _UnservedError(f"{name} of operators")
    return operand


def _not(place: _Place, name: str, operand: Any) -> _Check:
    if type(operand) is Regex:
        raise _UnservedError("$regex")
    if not has_operators(operand):
        raise _UnservedError(f"{name} of anything but operators")
    return _no(_operators(place, operand))


def _exists(place: _Place, name: str, operand: Any) -> _Check:
    if type(operand) is not bool:
        raise _UnservedError(f"{name} of anything but true or false")
    found = place(lambda value: value is not _MISSING)
    return found if operand else _no(found)


def _type(place: _Place, name: str, operand: Any) -> _Check:
    names = operand if type(operand) is list else [operand]
    if not names or not all(type(each) is str and each in _ALIASES for each in names):
        raise _UnservedError(f"{name} of anything but the names of types that can be stored")
    wanted = frozenset[str]().union(*(_ALIASES[each] for each in names))
    return place(lambda value: _TYPES.get(type(value)) in wanted)


def _size(place: _Place, name: str, operand: Any) -> _Check:
    if type(operand) is not int or operand < 0:
        raise _UnservedError(f"{name} of anything but an int, 0 or more")
    return place(lambda value: type(value) is list and len(value) == operand, whole=True)


def _mod(place: _Place, name: str, operand: Any) -> _Check:
    if type(operand) is not list or len(operand) != 2 or not all(type(each) in (int, Int64) for each in operand) or not operand[0]:
        raise _UnservedError(f"{name} of anything but a divisor and a remainder, two ints")
    divisor, remainder = operand
    return place(lambda value: _leaves(value, divisor, remainder))


def _elem_match(place: _Place, name: str, operand: Any) -> _Check:
    if type(operand) is not dict:
        raise _UnservedError(f"{name} of anything but conditions")
    if has_operators(operand) and operand.keys().isdisjoint({"$and", "$or", "$nor"}):
        check = _operators(_element, operand)
        return place(lambda value: type(value) is list and any(map(check, value)), whole=True)
    by_fields = _filter(operand)
    return place(lambda value: type(value) is list and any(by_fields(each) for each in _documents(value)), whole=True)


def _element(test: _Test, /, *, whole: bool = False) -> _Check:  # noqa: ARG001 - an element always is
    """The place inside $elemMatch: an element is taken as it is."""
    return test


def _documents(array: list[Any]) -> Iterator[dict[str, Any]]:
    """The elements that have fields: to the server an array, too, is a document."""
    for each in array:
        if type(each) is dict:
            yield each
        elif type(each) is list:
            yield {str(position): inner for position, inner in enumerate(each)}


_CONDITIONS: Final[Mapping[str, Callable[[_Place, str, Any], _Check]]] = {
    "$eq": _eq,
    "$ne": _ne,
    "$in": _in,
    "$nin": _nin,
    "$all": _all,
    "$not": _not,
    "$exists": _exists,
    "$type": _type,
    "$size": _size,
    "$mod": _mod,
    "$elemMatch": _elem_match,
}
_SERVED: Final = frozenset({"$and", "$or", "$nor", *_ORDERS, *_CONDITIONS})


# ---------------------------------------------------------------------------------------------------------------------
# Paths.


def _at_the_end_of(steps: list[str]) -> _Place:
    def place(test: _Test, /, *, whole: bool = False) -> _Check:
        return lambda document: any(map(test, _values(document, steps, whole=whole)))

    return place


def _values(document: Mapping[str, Any], steps: list[str], *, whole: bool) -> Iterator[Any]:
    """What stands at the end of a path from a document: several values where it goes through an array."""
    value: Any = document
    for number, step in enumerate(steps):
        if number and type(value) is not dict:
            yield _MISSING
            return
        value = value.get(step, _MISSING)
        if type(value) is list:
            rest = steps[number + 1 :]
            if rest:
                yield from _through(value, rest, whole=whole)
                return
            if not whole:
                yield from value
    yield value


def _through(array: list[Any], steps: list[str], *, whole: bool) -> Iterator[Any]:
    """The same from an array: from each document in it, and from the element at the position that the first step may be."""
    first, rest = steps[0], steps[1:]
    for position, each in enumerate(array):
        if type(each) is dict:
            yield from _values(each, steps, whole=whole)
        if first != str(position):
            continue
        if not rest:
            yield each  # as it is, even if it is an array
        elif type(each) is dict:
            yield from _values(each, rest, whole=whole)
        elif type(each) is list:
            yield from _through(each, rest, whole=whole)


# ---------------------------------------------------------------------------------------------------------------------
# Values.


def _equal(name: str, values: list[Any]) -> _Test:
    for each in values:
        _refuse_foreign(name, each)
    wanted = frozenset(map(comparable, values))
    null = None in wanted

    def test(value: Any) -> bool:
        if value is _MISSING:
            return null
        try:
            return comparable(value) in wanted
        except TypeError:  # it has no hash: a Regex, a Code, or a list with one in it, none of which can be asked for
            return False

    return test


def _refuse_foreign(name: str, value: Any) -> None:
    if type(value) not in _TYPES:
        raise _UnservedError(f"{name} of a {type(value).__name__}")
    for each in value.values() if type(value) is dict else value if type(value) is list else ():
        _refuse_foreign(name, each)


def _ordered(name: str, operand: Any) -> _Test:
    bracket = _bracket(operand)
    if bracket is None:
        raise _UnservedError(f"{name} of a {_TYPES.get(type(operand), type(operand).__name__)}")
    compare, bound = _ORDERS[name], _rank(operand)
    if _is_nan(operand):
        return _is_nan if name in ("$gte", "$lte") else _never
    return lambda value: _bracket(value) == bracket and not _is_nan(value) and compare(_rank(value), bound)


def _bracket(value: Any) -> str | None:
    """The types that are ordered among each other, by one of their names; None for what has no order here."""
    found = _TYPES.get(type(value))
    return "number" if found in _NUMBERS else None if found in ("object", "array", "null") else found


def _is_nan(value: Any) -> bool:
    return comparable(value) == ("NaN",) if type(value) in (float, Decimal128) else False


def _rank(value: Any) -> Any:
    """What `<` compares within a bracket."""
    if isinstance(value, datetime):
        return int(DatetimeMS(value))
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, UUID):
        return (len(value.bytes), UUID_SUBTYPE, value.bytes)
    if isinstance(value, bytes):
        subtype = value.subtype if isinstance(value, Binary) else 0
        # The old subtype counts its length a second time among its bytes.
        return (len(value) + (4 if subtype == OLD_BINARY_SUBTYPE else 0), subtype, bytes(value))
    return comparable(value)


def _leaves(value: Any, divisor: int, remainder: int) -> bool:
    """$mod: the fraction is cut off, what 64 bits cannot hold is left out, and the remainder has the sign of the number."""
    if _bracket(value) != "number" or (number := comparable(value)) == ("NaN",):
        return False
    if not -(2**63) <= number < 2**63:
        return False
    rest = abs(int(number)) % abs(divisor)
    return (-rest if number < 0 else rest) == remainder
