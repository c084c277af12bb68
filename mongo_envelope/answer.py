"""Asked and answered: whether a verified document is an answer to the question that was asked. Pure.

The HMAC says that a document is genuine, not that it is the one that was asked for: a server, or whoever sits between, may answer
with another genuine document of the same collection. So what a filter says about equality is checked again on the verified
document, by MongoDB's rules (manual: Query and Projection Operators, Comparison/Sort Order):

- 5 is 5.0 is Decimal128("5"), NaN is NaN, and True is not 1;
- a value matches an array that is equal to it, and one that has it as an element;
- None matches null and a field that is not there;
- a dict matches one with the same names in the same order.

Text is compared byte by byte, which is what the server is told to do (`repository` sends the simple collation); under any other
collation nothing is checked. Ranges, patterns and negations are not checked either: they count as answered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Context, Decimal
from typing import Any, Final
from uuid import UUID

import bson
from bson import ObjectId
from bson.decimal128 import Decimal128

from . import envelope

__all__ = ["Asked", "AskedValue", "comparable", "distinct_values", "has_operators", "is_position", "same"]


_Check = Callable[[dict[str, Any]], bool]


class Asked:
    """The part of a compiled filter that can be checked again. Immutable."""

    def __init__(self, compiled: Mapping[str, Any]) -> None:
        """Take a filter as `query.compile_filter` gives it: stored names, projected values."""
        # As the server reads it: dates in milliseconds, a compiled pattern as a Regex.
        encoded = bson.encode(compiled, codec_options=envelope.CODEC_OPTIONS)
        self._checks = _checks(bson.decode(encoded, envelope.CODEC_OPTIONS))

    def is_answered_by(self, raw: bytes) -> bool:
        """Whether nothing speaks against it. ``raw``: a document whose tag has been verified, as BSON."""
        return not self._checks or _all(self._checks, bson.decode(raw, envelope.CODEC_OPTIONS))


class AskedValue:
    """The short form of `Asked` for one value of one blind index, which is asked most. Immutable."""

    __slots__ = ("_name", "_value", "element")

    def __init__(self, name: str, value: bytes, element: bytes) -> None:
        """``name``: of the index, as stored. ``element``: that of ``idx`` which answers it, unless the values are an array."""
        self._name = name
        self._value = value
        self.element = element

    def is_answered_by(self, raw: bytes) -> bool:
        """As `Asked`."""
        return Asked({self._name: self._value}).is_answered_by(raw)


def _all(checks: list[_Check], document: dict[str, Any]) -> bool:
    return all(check(document) for check in checks)


def _checks(given: dict[str, Any]) -> list[_Check]:
    checks: list[_Check] = []
    for name, condition in given.items():
        if name == "$and":
            checks += [check for each in condition for check in _checks(each)]
        elif name == "$or":
            branches = [_checks(each) for each in condition]
            if all(branches):  # one that cannot be checked may be the one that matched
                checks.append(functools.partial(_any, branches))
        elif not name.startswith("$"):  # of $nor nothing: what is not checked would have to fail
            wanted = _wanted(condition)
            if wanted is not None:
                top, *steps = name.split(".")
                checks.append(functools.partial(_matches, top, steps, wanted))
    return checks


def _any(branches: list[list[_Check]], document: dict[str, Any]) -> bool:
    return any(_all(checks, document) for checks in branches)


def has_operators(condition: object) -> bool:
    """Whether a condition is one of operators, and not a value."""
    return isinstance(condition, Mapping) and any(isinstance(key, str) and key.startswith("$") for key in condition)


def _wanted(condition: Any) -> frozenset[Any] | None:
    """The values of which one is asked for; None if the condition does not say, or not only by equality with a plain value."""
    if not has_operators(condition):
        wanted = [condition]
    elif "$eq" in condition:
        wanted = [condition["$eq"]]
    elif "$in" in condition:
        wanted = condition["$in"]
    else:
        return None
    keys = frozenset(map(_key, wanted))
    # A pattern asks for what it matches. It has no hash; what else has none is not worth a comparison of its own.
    return None if _NO_KEY in keys else keys


_NO_KEY: Final = object()


def _key(value: Any) -> Any:
    """`comparable`, to be looked for in a set; `_NO_KEY`, which is in none, for what has no hash."""
    key = comparable(value)
    try:
        hash(key)
    except TypeError:
        return _NO_KEY
    return key


def _matches(top: str, steps: list[str], wanted: frozenset[Any], document: dict[str, Any]) -> bool:
    if top not in document:
        return None in wanted
    if steps and None in wanted:
        return True  # what null means along a path through arrays is left to the server
    for value in _values(document[top], steps):
        if any(_key(each) in wanted for each in (value, *(value if isinstance(value, list) else ()))):
            return True
    return False


def _values(value: Any, steps: list[str]) -> Iterator[Any]:
    """What stands at the end of a path: MongoDB looks into each document of an array, and at a position if the step is a number."""
    if not steps:
        yield value
    elif isinstance(value, dict):
        if steps[0] in value:
            yield from _values(value[steps[0]], steps[1:])
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, dict):
                yield from _values(each, steps)
        if is_position(steps[0]) and int(steps[0]) < len(value):
            yield from _values(value[int(steps[0])], steps[1:])


def distinct_values(document: dict[str, Any], name: str) -> Iterator[Any]:
    """What MongoDB's ``distinct`` finds in one document: the values at the end of a path, and those of an array one by one."""
    for value in _values(document, name.split(".")):
        yield from value if isinstance(value, list) else (value,)


def is_position(step: str) -> bool:
    """Whether a step of a path may be a position in an array."""
    return step.isascii() and step.isdigit() and len(step) < 10


def same(found: Any, asked: Any) -> bool:
    """Whether MongoDB takes the two for the same ``_id``: 5 is 5.0, and a date is what BSON makes of it."""
    if type(found) is type(asked):  # nearly always, and for less than encoding costs
        if type(found) in _AS_PYTHON:
            return bool(found == asked)
        if found == asked and not isinstance(found, dict):
            return True
    return bool(comparable(envelope.as_stored(found)) == comparable(envelope.as_stored(asked)))


#: The types of which MongoDB and Python take the same two values for one.
_AS_PYTHON: Final = frozenset({UUID, ObjectId, str, int, bytes})
#: A double is compared with a decimal128 by its first 34 digits.
_DECIMAL128: Final = Context(prec=34)
_NAN: Final = ("NaN",)


def comparable(value: Any) -> Any:
    """Of a value as it comes out of BSON, a form for which ``==`` says what MongoDB says. It can be hashed where the value can."""
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, dict):
        return ("document", *((name, comparable(inner)) for name, inner in value.items()))
    if isinstance(value, list):
        return ("array", *map(comparable, value))
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, float):
        return _NAN if math.isnan(value) else value if math.isinf(value) else _DECIMAL128.create_decimal_from_float(value)
    return _NAN if isinstance(value, Decimal) and value.is_nan() else value
