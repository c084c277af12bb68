"""Blind indexes: values by which the server finds equals without learning them. Spec 3.7 and 3.8.

    value = HMAC-SHA-256(key of (context, index name, normaliser id), encoding of the normal form), its first ``bits``

`BlindIndex` and `Bucket` are what a model says in ``Sensitive(index=…)``; `indexes` makes a `Definition` of each; an `Indexer`
computes the values under the keys of a ring, for `codec`, which stores them, and for `search`, which asks for them. What each kind
of index gives away is in docs/querying.md.
"""

from __future__ import annotations

import functools
import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from bson import ObjectId
from pydantic import AnyUrl, ByteSize, SecretBytes, SecretStr

from .errors import ConfigurationError
from .keys import KeyRing
from .lossless.classes import ADDRESSES
from .normalize import NOTHING, Normalizer, Width
from .primitives import NeverLeaves, pack

__all__ = ["ENCODABLE", "BlindIndex", "Bucket", "Definition", "Indexer", "Part", "encode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindIndex:
    """An index for equality on a sensitive field: ``Sensitive(index=BlindIndex(normalize="email", unique=True))``.

    ``normalize``: what values must have in common to be found by one another: ``exact``, ``casefold``, ``digits``, ``email``,
    ``phone`` (``phone:GB`` reads national numbers, too), ``date``, or a function, whose ``normalize_id`` names what it does.
    ``unique``: no two documents may have the same value; a second one is a `DuplicateValueError`.
    ``within``: the names of other fields, sensitive or queryable: equal only together with these. So ``within=("tenant",)`` hides
    that two tenants know the same person, and makes ``unique`` hold for each tenant. A dict says by which normaliser each is taken.
    ``bits``: the length of a value, a multiple of 8. Less than 128 finds too much on purpose, which is sorted out after decryption.
    ``none``: whether None is indexed, so that it can be searched for.
    ``name``: of the index, as it is stored; default: the field's name, behind those of ``within``.
    ``few_values``: index a field of few possible values all the same. Its index gives the values away.
    """

    normalize: str | Callable[[Any], Any] = "exact"
    normalize_id: str | None = None
    unique: bool = False
    within: Sequence[str] | Mapping[str, str] = ()
    bits: int = 128
    none: bool = False
    name: str | None = None
    few_values: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """An index for ranges on a sensitive number or date: ``Sensitive(index=[BlindIndex(), Bucket(width=1000)])``.

    The server learns which values share a bucket, and nothing of the order. A range asks for all buckets that it touches, and its
    exact bounds are applied after decryption.

    ``width``: of a bucket, an int or Decimal; ``"month"`` or ``"year"`` for dates.
    ``low``, ``high``: together; what lies beyond falls into the first or the last bucket, so that a range may be open at one end.
    ``name``: of the index, as it is stored; default: the field's name and ``_bucket``.
    """

    width: Width
    low: Any = None
    high: Any = None
    bits: int = 128
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One field of an index."""

    field: str  #: its name in Python
    normalizer: Normalizer
    many: bool = False  #: a list, each element of which is indexed
    real: bool = False  #: a float field, in which an int is meant as a float

    def form(self, value: Any) -> Any:
        """The normal form of one value, or `NOTHING`. Raise `ValueError`, which names no value."""
        value = _shown(value)
        if self.real and type(value) is int:
            value = float(value)
        return self.normalizer.apply(value)


@dataclass(frozen=True)
class Definition:
    """One blind index of a model."""

    name: str
    parts: tuple[Part, ...]  #: the field that it is declared on last
    bits: int
    unique: bool
    none: bool
    ranges: bool  #: a `Bucket`

    @property
    def owner(self) -> Part:
        """The field that it is declared on."""
        return self.parts[-1]

    @functools.cached_property
    def stored(self) -> str:
        """Where its values stand in a stored document."""
        return f"idx.{self.name}"

    @functools.cached_property
    def head(self) -> bytes:
        """What stands before a value in the BSON of ``idx``, if that is no array: type, name, length, subtype."""
        return b"\x05" + self.name.encode() + b"\x00" + (self.bits // 8).to_bytes(4, "little") + b"\x00"

    @property
    def exact(self) -> bool:
        """Whether equal index values mean equal normal forms."""
        return self.bits >= _EXACT_BITS and not self.ranges

    @property
    def normalizer_id(self) -> str:
        """What enters the derivation of the key."""
        return "+".join(part.normalizer.id for part in self.parts)

    def encodings(self, values: Mapping[str, Any]) -> list[bytes]:
        """Of the values of a model's fields, what is indexed, each once. Raise `ValueError` with the field's name."""
        return sorted({each for each in self._each(values) if each is not None})

    def each(self, values: Mapping[str, Any]) -> list[bytes | None]:
        """Of each element of the field, or of the field, what is indexed, or None. Nothing for a value that cannot be."""
        try:
            return self._each(values)
        except ValueError:  # what was stored before the normaliser refused it
            return []

    def _each(self, values: Mapping[str, Any]) -> list[bytes | None]:
        value = values[self.owner.field]
        elements = [value] if value is None or not self.owner.many else value
        around = [_encoded(part, values[part.field], none=True) for part in self.parts[:-1]]
        return [_joined((*around, _encoded(self.owner, each, none=self.none))) for each in elements]

    def encoding(self, fields: Mapping[str, Any]) -> bytes | None:
        """Of one value for each part, of which None is asked for if it is None; None if a part has no normal form."""
        return _joined([_encoded(part, fields[part.field], none=True) for part in self.parts])

    def encoded_text(self, value: Any) -> bytes | None:
        """The encoding of a text, for an index on one field; None for what `encoding` has to look at."""
        try:
            form = self.parts[0].normalizer.apply(value)
            return b"\x04" + form.encode() if type(form) is str else None
        except ValueError:
            return None

    def numbered(self, number: int) -> bytes:
        """The encoding of a bucket."""
        return encode(number)


def _shown(value: Any) -> Any:
    """What a secret hides, and the value of a member of an enumeration."""
    if isinstance(value, SecretStr | SecretBytes):
        return value.get_secret_value()
    return value.value if isinstance(value, Enum) else value


def _encoded(part: Part, value: Any, *, none: bool) -> bytes | None:
    if _shown(value) is None:
        return _NULL if none else None
    try:
        form = part.form(value)
        return None if form is NOTHING else encode(form)
    except ValueError as error:
        problem = f"{part.field}: {error}"
    raise ValueError(problem)


def _joined(encodings: Sequence[bytes | None]) -> bytes | None:
    """The encoding of the whole, from those of its parts; None if one has none."""
    whole = [each for each in encodings if each is not None]
    if len(whole) < len(encodings):
        return None
    return whole[0] if len(whole) == 1 else _LIST + pack(*whole)


_EXACT_BITS: Final = 128


class Indexer(NeverLeaves):
    """Computes the index values of one model in one context. Immutable; safe to share between threads."""

    def __init__(self, definitions: Iterable[Definition], keys: KeyRing, context: str) -> None:
        """Take what `Schema.blind` lists. Raise `ConfigurationError` if the ring has no index key for it."""
        self._definitions = sorted(definitions, key=lambda each: each.name.encode())
        self._keys = keys
        self._context = context
        self._searched = keys.search_key or ""
        self._tags: dict[tuple[str, str], Callable[[bytes], bytes]] = {}
        if self._definitions and keys.search_key is None and keys.contexts is None:  # a restricted ring says later what is missing
            raise ConfigurationError(
                "the model has blind indexes, and this ring no index key: keys.with_index_key(IndexKey.generate()) makes a ring "
                "that has one; to_file(…) writes it"
            )

    def __bool__(self) -> bool:
        return bool(self._definitions)

    def check_searching(self) -> None:
        """Raise `MissingCapabilityError` if the ring is restricted, and cannot make the values that searches ask for."""
        self._keys.need("search", what="a filter on a blind index")

    def of_nothing(self, _: object) -> dict[str, Any]:
        """An ``idx`` without values, as no document is stored; no normaliser is asked for it."""
        return _kid_of(self._keys.written_index_keys)

    def of(self, values: Mapping[str, Any], kids: Sequence[str] | None = None) -> dict[str, Any]:
        """What is stored as ``idx``: the values of a model's fields, under the written index keys or those of ``kids``.

        Raise `ValueError`, with a field's name, for a value that its normaliser refuses; `UnknownKeyError` for a kid.
        """
        under = self._keys.written_index_keys if kids is None else kids
        idx = _kid_of(under)
        for each in self._definitions:
            # Each once: short values of several elements, or under several keys, may be equal by chance.
            found = {self._value(each, kid, encoding) for encoding in each.encodings(values) for kid in under}
            one = len(found) == 1 and len(under) == 1 and (not each.owner.many or values[each.owner.field] is None)
            # No value is told by an empty array: nothing at all would be a document that was sealed before there was this index.
            idx[each.name] = found.pop() if one else sorted(found)
        return idx

    def written(self, definition: Definition) -> dict[str, Any]:
        """A filter for the documents that have been given values of this index under the key that searches go by."""
        return {"idx.kid": self._searched, definition.stored: {"$exists": True}}

    def asked(self, definition: Definition, encoding: bytes) -> bytes:
        """The value that a search asks for."""
        return self._value(definition, self._searched, encoding)

    def _value(self, definition: Definition, kid: str, encoding: bytes) -> bytes:
        tag = self._tags.get((kid, definition.name))
        if tag is None:
            key = self._keys.index_key(kid)
            tag = key.authenticator(self._context, definition.name, definition.normalizer_id).tag
            self._tags[kid, definition.name] = tag
        return tag(encoding)[: definition.bits // 8]


# ---------------------------------------------------------------------------------------------------------------------
# The encoding: one type byte, then the value, so that 5, 5.0, True and "5" never meet.

_NULL: Final = b"\x00"
_LIST: Final = b"\x10"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - subtracted from naive times only
_MICROSECOND: Final = timedelta(microseconds=1)


def encode(value: Any) -> bytes:
    """The bytes of a normal form, type included. Raise `ValueError`, without the value, for one that has no encoding."""
    if isinstance(value, Enum):
        value = value.value
    encoder = _ENCODERS.get(type(value))
    if encoder is not None:
        return encoder(value)
    for cls, encoder in _ENCODERS.items():
        if isinstance(value, cls):  # a ByteSize, an HttpUrl
            return encoder(value)
    raise ValueError(f"a {type(value).__name__} has no index value")


def _integer(kind: bytes, value: int) -> bytes:
    return kind + b"%d" % value


def _float(value: float) -> bytes:
    return b"\x03" + (_NAN if value != value else struct.pack(">d", value + 0.0))  # noqa: PLR0124 - NaN; and -0.0 + 0.0 is 0.0


_NAN: Final = bytes.fromhex("7ff8000000000000")


def _text(kind: bytes, value: str) -> bytes:
    try:
        return kind + value.encode()
    except UnicodeEncodeError:  # which carries the text
        pass
    raise ValueError("a text with a lone surrogate has no index value")


def _decimal(value: Decimal) -> bytes:
    if value.is_nan():
        return b"\x06NaN"
    sign, digits, exponent = value.as_tuple()
    minus = "-" if sign else ""
    if not isinstance(exponent, int):
        return f"\x06{minus}Infinity".encode()
    coefficient = "".join(map(str, digits)).lstrip("0")
    kept = coefficient.rstrip("0")
    if not kept:
        return b"\x060E0"
    return f"\x06{minus}{kept}E{exponent + len(coefficient) - len(kept)}".encode()


def _datetime(value: datetime) -> bytes:
    if value.utcoffset() is None:
        return _integer(b"\x08", (value.replace(tzinfo=None) - _NAIVE_EPOCH) // _MICROSECOND)
    return _integer(b"\x07", (value - _EPOCH) // _MICROSECOND)


def _time(value: time) -> bytes:
    since = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    offset = value.utcoffset()
    if offset is None:
        return _integer(b"\x0a", since // _MICROSECOND)
    return _integer(b"\x0b", (since - offset) // _MICROSECOND)


def _packed(kind: str, *parts: bytes) -> bytes:
    return b"\x0f" + pack(kind.encode(), *parts)


def _address(value: Any) -> bytes:
    """By its bytes: the text of an IPv6 address differs between Pythons."""
    name = type(value).__name__.lower()
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        base, prefix = value.network_address, bytes([value.prefixlen])
    else:
        base, prefix = value, bytes([value.network.prefixlen]) if name.endswith("interface") else b""
    if isinstance(base, ipaddress.IPv6Address):
        return _packed(name, base.packed + prefix, (base.scope_id or "").encode())
    return _packed(name, base.packed + prefix)


def _list(values: Iterable[Any]) -> bytes:
    try:
        return _LIST + pack(*map(encode, values))
    except RecursionError:
        pass
    raise ValueError("a list that is nested too deeply, or inside itself, has no index value")


#: type → its encoder; a bool before an int, a datetime before a date, of which they are subclasses
_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    str: lambda value: _text(b"\x04", value),
    bool: lambda value: b"\x01\x01" if value else b"\x01\x00",
    int: lambda value: _integer(b"\x02", value),
    float: _float,
    bytes: lambda value: b"\x05" + value,
    bytearray: lambda value: b"\x05" + bytes(value),
    Decimal: _decimal,
    datetime: _datetime,
    date: lambda value: b"\x09" + value.isoformat().encode(),
    time: _time,
    timedelta: lambda value: _integer(b"\x0c", value // _MICROSECOND),
    UUID: lambda value: b"\x0d" + value.bytes,
    ObjectId: lambda value: b"\x0e" + value.binary,
    Fraction: lambda value: _packed("fraction", str(value).encode()),
    **dict.fromkeys(ADDRESSES, _address),
    AnyUrl: lambda value: _packed("url", str(value).encode()),
    type(None): lambda _: _NULL,
    list: _list,
    tuple: _list,
}
#: What a field of a blind index can hold.
ENCODABLE: Final = tuple({*_ENCODERS, Enum, SecretStr, SecretBytes, ByteSize} - {list, tuple, type(None)})


def several(given: Any) -> Iterator[BlindIndex | Bucket]:
    """What ``Sensitive(index=…)`` was given: None, one, or several; a class stands for an instance of it."""
    for each in given if isinstance(given, list | tuple) else () if given is None else (given,):
        yield BlindIndex() if each is BlindIndex else each


def _kid_of(kids: Sequence[str]) -> dict[str, Any]:
    return {"kid": kids[0] if len(kids) == 1 else list(kids)}
