"""Values inside ``Any``: kept by a tag where JSON has no word for them, refused where no tag is known.

None, bool, int, float, str, list and dict are themselves. Everything else is an object with one key, its tag:
``{"$bytes": "AAE="}``. A dict that could be mistaken for one (a single key that starts with ``$``), or whose keys are
not all text, is written as ``{"$dict": [[key, value], …]}``. Instances of other classes, of subclasses too, are refused
at that save: nothing says how they would come back.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, NamedTuple
from uuid import UUID

from bson import ObjectId
from pydantic_core import core_schema

from .classes import ADDRESSES
from .node import EVERYTHING, Misfit, Node, check_int, check_names

__all__ = ["ANY", "decode", "encode"]

_MICROSECOND: Final = timedelta(microseconds=1)


class _Tagged(NamedTuple):
    tag: str
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _sequence(value: Any) -> list[Any]:
    return [encode(item) for item in value]


def _items(load: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    return lambda items: load([decode(item) for item in items])


_TAGGED: Final[dict[type, _Tagged]] = {
    bytes: _Tagged("$bytes", _base64, base64.b64decode),
    bytearray: _Tagged("$bytearray", _base64, lambda text: bytearray(base64.b64decode(text))),
    tuple: _Tagged("$tuple", _sequence, _items(tuple)),
    set: _Tagged("$set", _sequence, _items(set)),
    frozenset: _Tagged("$frozenset", _sequence, _items(frozenset)),
    datetime: _Tagged("$datetime", datetime.isoformat, datetime.fromisoformat),
    date: _Tagged("$date", date.isoformat, date.fromisoformat),
    time: _Tagged("$time", time.isoformat, time.fromisoformat),
    timedelta: _Tagged("$timedelta", lambda value: value // _MICROSECOND, lambda count: count * _MICROSECOND),
    Decimal: _Tagged("$decimal", str, Decimal),
    Fraction: _Tagged("$fraction", str, Fraction),
    complex: _Tagged("$complex", lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    UUID: _Tagged("$uuid", str, UUID),
    ObjectId: _Tagged("$oid", str, ObjectId),
    type(Path()): _Tagged("$path", str, Path),
    PurePosixPath: _Tagged("$posixpath", str, PurePosixPath),
    PureWindowsPath: _Tagged("$windowspath", str, PureWindowsPath),
    **{cls: _Tagged("$" + cls.__name__.lower(), str, cls) for cls in ADDRESSES},
}
_BY_TAG: Final = {tagged.tag: tagged for tagged in _TAGGED.values()}
_DICT: Final = "$dict"
_PLAIN: Final = frozenset({type(None), bool, int, float, str})


def encode(value: Any) -> Any:
    """What JSON can write; `decode` gives the value back, type included. Raise `Misfit` where no tag is known."""
    kind = type(value)
    if kind in _PLAIN:
        if kind is int:
            check_int(value)
        return value
    if kind is list:
        return [encode(item) for item in value]
    if kind is dict:
        check_names(key for key in value if type(key) is str)
        if all(type(key) is str for key in value) and not (len(value) == 1 and next(iter(value)).startswith("$")):
            return {key: encode(item) for key, item in value.items()}
        return {_DICT: [[encode(key), encode(item)] for key, item in value.items()]}
    tagged = _TAGGED.get(kind)
    if tagged is None:
        raise Misfit(f"{kind.__qualname__} inside Any cannot be kept: declare the field's type, or Sensitive(dump=…, load=…)")
    return {tagged.tag: tagged.dump(value)}


def decode(value: Any) -> Any:
    """The inverse of `encode`. Raise `ValueError` for a tag that this version does not know."""
    if type(value) is list:
        return [decode(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        tag, content = next(iter(value.items()))
        if tag == _DICT:
            return {decode(key): decode(item) for key, item in content}
        if tag in _BY_TAG:
            return _BY_TAG[tag].load(content)
        if tag.startswith("$"):
            raise ValueError("a tag that this version does not know")
    return {key: decode(item) for key, item in value.items()}


def _check(value: object) -> None:
    try:
        encode(value)
    except RecursionError:
        pass
    else:
        return
    raise Misfit("nested too deeply, or inside itself")


#: A place that is declared ``Any`` or ``object``.
ANY: Final = Node(
    schema=core_schema.no_info_plain_validator_function(
        decode, serialization=core_schema.plain_serializer_function_ser_schema(encode, return_schema=core_schema.any_schema())
    ),
    label="Any",
    types=EVERYTHING,
    kinds=frozenset({"null", "bool", "int", "float", "string", "array", "object"}),
    deep=_check,
    opaque="Any has no fixed form",
)
