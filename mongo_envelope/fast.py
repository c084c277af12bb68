"""The short way to read a document that is exactly as this model seals it today. Everything else goes the plain way.

`FastReader.open` gives what `envelope.open` and `Schema.join` would give, or None: then the caller takes the plain way, which
gives it or says what is wrong. So nothing is refused here, and nothing is accepted that the plain way would not accept;
tests/test_fast.py holds the two against each other. The order is the plain one: verify, decrypt, parse; the steps are those of
``spec/envelope-v1.md``.

What a model seals is so regular that two regular expressions describe it: the elements up to the length of ``data``, and those
behind ``data``. They are matched in C, and what they find goes into JSON as it stands: it is UTF-8 on both sides. What would need
an escape there (a quote, a control character), and lists and documents in the clear, are left to the plain way.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import bson
from bson import Int64, ObjectId
from pydantic import BaseModel

from . import envelope
from .errors import EnvelopeError, KeyUnavailableError
from .keys import KeyRing
from .lossless.reading import LOAD
from .schema import Schema, StoredField

__all__ = ["FastReader"]

Model = TypeVar("Model", bound=BaseModel)

_length: Final = struct.Struct("<i").unpack_from
#: Regular expressions of elements; each group is numbered by `_Pattern`.
_VERSION: Final = rb"\x10v\x00\x01\x00\x00\x00"
_IV: Final = rb"\x05iv\x00\x10\x00\x00\x00\x00(.{16})"
_KID: Final = rb"\x02kid\x00(.{4}[A-Za-z0-9_.-]{1,64})\x00"
_DATA: Final = rb"\x05data\x00.{4}\x00"
#: UTF-8 that stands in JSON as it stands in BSON: RFC 8259, section 7. That it is UTF-8 pydantic's parser checks.
_UNESCAPED: Final = rb'[^\x00-\x1f"\\]*'

_Tag = Callable[[bytes], bytes]
_Decrypt = Callable[[bytes, bytes], bytes]


class FastReader(Generic[Model]):
    """Reads documents of one model in one context. Safe to share between threads."""

    def __init__(self, schema: Schema[Model], keys: KeyRing, context: str) -> None:
        """Describe a sealed document."""
        fields = {field.stored: field for field in schema.stored if field.stored != "_id"}
        own = {"iv": _IV, "kid": _KID, "v": _VERSION}
        pattern = _Pattern()
        pattern.add_field(schema.identity)
        for name in sorted([*fields, *own, "data", *(["idx"] if schema.blind else [])]):
            if name == "data":
                pattern.add(_DATA)
                pattern.cut()
            elif name == "idx":
                pattern.add_idx(schema, keys)
            elif name in own:
                pattern.add(own[name], name)
            else:
                pattern.add_field(fields[name])
        self._before = re.compile(pattern.parts[0], re.DOTALL).match
        self._after = re.compile(pattern.parts[1], re.DOTALL).fullmatch
        self._texts = tuple(pattern.texts)
        self._arrays = tuple(pattern.arrays)
        self._idx = pattern.named.get("idx")
        self._iv, self._kid = pattern.named["iv"], pattern.named["kid"]
        spliced = [(name, pattern.spliced[name]) for field in schema.stored if (name := field.name) in pattern.spliced]
        self._moments = tuple((json.dumps(name).encode(), place) for name, place in pattern.moments.items())
        self._template = b"{%b" + b"".join(
            json.dumps(name).encode().replace(b"%", b"%%") + (b':"%s",' if convert is None else b":%s,")
            for name, (_, convert) in spliced
        )
        self._places = tuple(place for _, place in spliced)
        self._identity = schema.identity.name
        self._identity_of = pattern.identity_of
        self._validate = schema._plan._validator.validate_json
        self._keys = keys
        self._context = context
        self._working: dict[bytes, tuple[_Tag, _Decrypt]] = {}  # by length and text of the kid

    def open(self, raw: bytes, expected: bytes = b"") -> tuple[Any, bytes, Model] | None:
        """``(_id, hmac, model)``, or None for a document that the plain way has to look at.

        ``expected``: an element of ``idx``, without which a document is one of these.
        """
        try:
            # 1. The frame, and in it what the model seals, element by element. 2. The version is one of them.
            stop = len(raw) - 44
            before = self._before(raw, 4, stop)
            if before is None or _length(raw)[0] != len(raw) or raw[-1] or raw[stop:-33] != envelope.TAG_HEADER:
                return None
            start = before.end()
            end = start + _length(raw, start - 5)[0]
            after = self._after(raw, end, stop)
            if after is None or end < start:
                return None
            found = before.groups() + after.groups()
            # 3. The key.
            iv, kid = found[self._iv], found[self._kid]
            tag, decrypt = self._working.get(kid) or self._learn(kid)
            # 4. The tag, in constant time; the right one gets no name. Before this line nothing is decoded.
            if not hmac.compare_digest(tag(raw[4:stop]), raw[-33:-1]):
                return None
            # 5. The lengths that a regular expression cannot count; then decrypt.
            for counted, text in self._texts:
                if found[text] is not None and _length(found[counted])[0] != len(found[text]) + 1:
                    return None
            if self._idx is not None and not self._is_idx(found, expected):
                return None
            payload = decrypt(iv, raw[start:end])
            if not payload.startswith(b'{"'):
                return None
            # 6. One JSON object of metadata and payload, as `Schema.join` puts it together.
            moments = self._in_front(found) if self._moments else b""
            values = [found[place] if convert is None else convert(found[place]) for place, convert in self._places]
            model: Model = self._validate(self._template % (moments, *values) + payload[1:], context=LOAD)
            held = model.__dict__[self._identity]
            # What BSON holds is most often what the model holds. Making it again is for the rest.
            identity = held if type(held) is UUID and held.bytes == found[0] else self._identity_of(found[0])
            return identity, raw[-33:-1], model
        except Exception:  # noqa: BLE001 - whatever it is, the plain way says it, and says it without a value
            return None

    def _in_front(self, found: tuple[bytes, ...]) -> bytes:
        """The moments of fields whose exact value comes behind, in the payload, if it is there."""
        members = ((name, found[place]) for name, place in self._moments if found[place] is not None)
        return b"".join(name + b":" + _moment_as_json(moment) + b"," for name, moment in members)

    def _learn(self, element: bytes) -> tuple[_Tag, _Decrypt]:
        """The two operations under the key that length and text of a kid name, as the plain way finds it. Raise what it raises."""
        try:
            kid = envelope._kid(b"\x02" + element + b"\x00")
            if _length(element)[0] != len(element) - 3:
                raise LookupError
            working = self._keys.working_keys(kid, self._context)
        except (EnvelopeError, KeyUnavailableError):
            raise LookupError from None
        return self._working.setdefault(element, (working.authenticator.tag, working.cipher.decrypt))

    def _is_idx(self, found: tuple[bytes, ...], expected: bytes) -> bool:
        """Whether the lengths in ``idx`` and the names in its arrays are right, and the element that was asked for is there."""
        idx = found[self._idx or 0]
        if _length(idx)[0] != len(idx) or expected not in idx:
            return False
        return all(found[group] is None or _are_values(found[group], size) for group, size in self._arrays)


# ---------------------------------------------------------------------------------------------------------------------
# What a model seals, as regular expressions.

_STRING: Final = 0x02
_BINARY: Final = 0x05
_OBJECT_ID: Final = 0x07
_BOOL: Final = 0x08
_NULL: Final = 0x0A
_INT32: Final = 0x10
_INT64: Final = 0x12
_INTEGERS: Final = {_INT32: struct.Struct("<i").unpack_from, _INT64: struct.Struct("<q").unpack_from}
#: element type → its value, of which there is a form in JSON
_SCALARS: Final = {
    _STRING: rb".{4}" + _UNESCAPED + rb"\x00",
    _BINARY: rb"\x10\x00\x00\x00\x04.{16}",  # a UUID: subtype 4
    _OBJECT_ID: rb".{12}",
    _BOOL: rb"[\x00\x01]",
    _NULL: b"",
    _INT32: rb".{4}",
    _INT64: rb".{8}",
}
#: the same for values that are not read, because the payload has them exactly: a double, a date, a decimal128, too
_UNREAD: Final = {kind: value for kind, value in _SCALARS.items() if kind != _STRING} | {
    0x01: rb".{8}",
    0x13: rb".{16}",
}


_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - whose Z is written behind it
_int64: Final = struct.Struct("<q").unpack_from


class _Pattern:
    """Two regular expressions, put together element by element, and what their groups are."""

    def __init__(self) -> None:
        self.parts = [b"", b""]  #: before the bytes of ``data``, and after them
        self.named: dict[str, int] = {}  #: groups of ``iv``, ``kid`` and ``idx``
        self.texts: list[tuple[int, int]] = []  #: groups of a length and of the text that is so long
        self.arrays: list[tuple[int, int]] = []  #: groups of arrays in ``idx``, and the size of their values
        #: field → the group of its value, and what makes JSON of it; None for a text, which is JSON but for its quotes
        self.spliced: dict[str, tuple[int, Callable[[bytes], bytes] | None]] = {}
        self.identity_of: Callable[[bytes], Any] = _identity  #: makes the ``_id`` of the group of its value
        #: field → the group of a moment that stands before the payload, which may have it, too: as in `Schema.join`
        self.moments: dict[str, int] = {}
        self._part = 0
        self._groups = 0

    def add(self, pattern: bytes, name: str = "") -> int:
        """One element. The number of its first group."""
        self.parts[self._part] += pattern
        first = self._groups
        self._groups += re.compile(pattern).groups
        if name:
            self.named[name] = first
        return first

    def cut(self) -> None:
        """What follows stands behind the bytes of ``data``."""
        self._part = 1

    def add_field(self, field: StoredField) -> None:
        """A field in the clear: a text, or one of several scalars."""
        name = re.escape(field.stored.encode()) + rb"\x00"
        node = field.node
        if field.is_moment:
            self.spliced[field.name] = self.add(rb"\x09%s(.{8})" % name), _moment_as_json
            if field.stored == "_id":
                self.identity_of = _moment
        elif not field.spliced:
            forms = [re.escape(bytes([kind])) + name + value for kind, value in _UNREAD.items()]
            first = self.add(b"(?:%s|\x02%s(.{4})([\x01-\x7f]*)\x00|\x09%s(.{8}))" % (b"|".join(forms), name, name))
            self.texts.append((first, first + 1))
            if field.stored == "_id":
                self.identity_of = _for_the_plain_way
            if not field.computed:
                self.moments[field.name] = first + 2
        elif node.kinds == {"string"} and not {UUID, ObjectId, bytes} & {*node.types} and field.stored != "_id":
            first = self.add(rb"\x02%s(.{4})(%s)\x00" % (name, _UNESCAPED))
            self.texts.append((first, first + 1))
            self.spliced[field.name] = first + 1, None
        elif node.types == {UUID}:
            self.spliced[field.name] = self.add(rb"\x05%s\x10\x00\x00\x00\x04(.{16})" % name), _uuid_as_json
            if field.stored == "_id":
                self.identity_of = lambda value: UUID(bytes=value)
        else:
            forms = [re.escape(bytes([kind])) + name + value for kind, value in _SCALARS.items()]
            width = len(field.stored.encode()) + 2
            self.spliced[field.name] = self.add(b"(%s)" % b"|".join(forms)), lambda element: _as_json(element[0], element[width:])

    def add_idx(self, schema: Schema[Any], keys: KeyRing) -> None:
        """``idx`` as this model seals it: a kid of ours, or several, and then values in the order of their names."""
        written = list(keys.written_index_keys)
        known = [*keys.index_keys, written] if len(written) > 1 else keys.index_keys
        kids = b"|".join(re.escape(bson.encode({"kid": each})[4:-1]) for each in known)
        pattern, arrays = b"", []
        for each in sorted(schema.blind, key=lambda each: each.name.encode()):
            size = each.bits // 8
            value = rb"%s\x00.{%d}" % (re.escape(size.to_bytes(4, "little")), size)
            name = re.escape(each.name.encode()) + rb"\x00"
            pattern += rb"(?:\x05%s%s|\x04%s(.{4}(?:\x05[0-9]++\x00%s)*+\x00))?" % (name, value, name, value)
            arrays.append(size)
        first = self.add(rb"\x03idx\x00(.{4}(?:%s)%s\x00)" % (kids, pattern), "idx")
        self.arrays = [(first + 1 + number, size) for number, size in enumerate(arrays)]


def _uuid_as_json(value: bytes) -> bytes:
    """RFC 9562, section 4."""
    text = value.hex()
    return f'"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"'.encode()


def _moment_as_json(value: bytes) -> bytes:
    """RFC 3339, in UTC, as pydantic writes it. If BSON has changed the moment, the payload has it, too, and comes behind."""
    return f'"{(_EPOCH + timedelta(0, 0, 0, _int64(value)[0])).isoformat()}Z"'.encode()


def _for_the_plain_way(_: bytes) -> Any:
    """An ``_id`` that no group holds whole."""
    raise ValueError


def _moment(value: bytes) -> Any:
    """As `bson.decode` gives it."""
    return bson.decode(b"\x0f\x00\x00\x00\x09\x00" + value + b"\x00", envelope.CODEC_OPTIONS)[""]


def _as_json(kind: int, value: bytes) -> bytes:
    """A scalar of BSON as JSON. Raise `ValueError` for a text whose length is not the one that it says."""
    if kind == _BINARY:
        return _uuid_as_json(value[5:])
    if kind == _STRING:
        if _length(value)[0] != len(value) - 4:
            raise ValueError
        return b'"' + value[4:-1] + b'"'
    if kind in _INTEGERS:
        return b"%d" % _INTEGERS[kind](value)[0]
    if kind == _OBJECT_ID:
        return b'"%s"' % value.hex().encode()
    return b"null" if kind == _NULL else b"true" if value[0] else b"false"


def _identity(element: bytes) -> Any:
    """The ``_id`` as `bson.decode` gives it, of its element."""
    kind, value = element[0], element[5:]
    if kind == _STRING:
        return value[4:-1].decode()
    if kind in _INTEGERS:
        number = _INTEGERS[kind](value)[0]
        return Int64(number) if kind == _INT64 else number
    return ObjectId(value) if kind == _OBJECT_ID else UUID(bytes=value[5:])


def _are_values(array: bytes, size: int) -> bool:
    """Whether the names of an array's elements are 0, 1, 2 …, and its length is the one that it says."""
    head, at, number = size.to_bytes(4, "little") + b"\x00", 4, 0
    while array.startswith(name := b"\x05%d\x00" % number + head, at):
        at += len(name) + size
        number += 1
    return at == len(array) - 1 and _length(array)[0] == len(array)
