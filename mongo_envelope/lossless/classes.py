"""Classes that JSON has no word for, and how each is written in the payload and read back.

pydantic shows such a class as an ``is-instance`` check somewhere in its core schema, next to a serializer of its own. The
serializer cannot be told from a mask, so it is never used: a class is kept if it stands in this table (or the field says
``Sensitive(dump=…, load=…)``), and is a `SchemaError` otherwise.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final
from zoneinfo import ZoneInfo

from bson import ObjectId
from pydantic import SecretBytes, SecretStr
from pydantic.networks import NameEmail
from pydantic_core import CoreSchema, core_schema

from .node import Kind

__all__ = ["ADDRESSES", "KeptClass", "kept_class"]

ADDRESSES: Final = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)
_NOT_IN_THE_CLEAR: Final = "a secret does not belong in metadata, which stands in the clear: leave it unmarked"


@dataclass(frozen=True, slots=True)
class KeptClass:
    """How instances of one class are written and read."""

    types: frozenset[type]  #: the exact types of its instances: ``Path`` makes a ``PosixPath``
    dump: Callable[[Any], Any]
    written: CoreSchema  #: of what ``dump`` returns
    kind: Kind
    load: CoreSchema | None = None  #: from JSON to the instance; None: pydantic's own JSON branch, which keeps constraints
    project: Callable[[Any], Any] | None = None  #: None: as ``dump``
    opaque: str | None = None


def kept_class(cls: type) -> KeptClass | None:
    """The entry for a class, or None if the table has none."""
    if cls in ADDRESSES or cls in (Fraction, ZoneInfo):
        return _as_text(cls, frozenset({cls}), str)
    if issubclass(cls, PurePath) and cls.__module__.partition(".")[0] == "pathlib":
        return _as_text(cls, frozenset({type(cls())}), str)
    if issubclass(cls, SecretStr):
        return KeptClass(frozenset({cls}), cls.get_secret_value, core_schema.str_schema(), "string", opaque=_NOT_IN_THE_CLEAR)
    if issubclass(cls, SecretBytes):
        return KeptClass(frozenset({cls}), cls.get_secret_value, core_schema.bytes_schema(), "string", opaque=_NOT_IN_THE_CLEAR)
    return _TABLE.get(cls)


def _after(function: Callable[[Any], Any], schema: CoreSchema) -> CoreSchema:
    return core_schema.no_info_after_validator_function(function, schema)


def _as_text(make: Callable[[str], Any], types: frozenset[type], dump: Callable[[Any], str]) -> KeptClass:
    return KeptClass(types, dump, core_schema.str_schema(), "string", _after(make, core_schema.str_schema()))


def _dump_pattern(pattern: re.Pattern[Any]) -> list[Any]:
    text = pattern.pattern
    if isinstance(text, bytes):
        return ["bytes", base64.urlsafe_b64encode(text).decode(), pattern.flags]
    return ["str", text, pattern.flags]


def _load_pattern(parts: list[Any]) -> re.Pattern[Any]:
    form, text, flags = parts
    return re.compile(base64.urlsafe_b64decode(text) if form == "bytes" else text, flags)


_REAL_AND_IMAGINARY: Final = core_schema.tuple_schema([core_schema.float_schema(), core_schema.float_schema()])
_NAME_AND_EMAIL: Final = core_schema.tuple_schema([core_schema.str_schema(), core_schema.str_schema()])

_TABLE: Final[dict[type, KeptClass]] = {
    ObjectId: KeptClass(
        frozenset({ObjectId}),
        str,
        core_schema.str_schema(),
        "string",
        _after(ObjectId, core_schema.str_schema()),
        project=lambda value: value,  # BSON knows it
    ),
    bytearray: KeptClass(
        frozenset({bytearray}),
        bytes,
        core_schema.bytes_schema(),
        "string",
        _after(bytearray, core_schema.bytes_schema()),
    ),
    complex: KeptClass(
        frozenset({complex}),
        lambda value: (value.real, value.imag),
        _REAL_AND_IMAGINARY,
        "array",
        _after(lambda parts: complex(*parts), _REAL_AND_IMAGINARY),
        opaque="BSON has no complex numbers",
    ),
    re.Pattern: KeptClass(
        frozenset({re.Pattern}),
        _dump_pattern,
        core_schema.list_schema(),
        "array",
        _after(_load_pattern, core_schema.list_schema()),
        opaque="a regular expression as a value would be taken for a search",
    ),
    NameEmail: KeptClass(
        frozenset({NameEmail}),
        lambda value: (value.name, value.email),
        _NAME_AND_EMAIL,
        "array",
        _after(lambda parts: NameEmail(*parts), _NAME_AND_EMAIL),
    ),
}
