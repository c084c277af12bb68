"""The short way to read a document that is exactly as this model seals it today. Everything else goes the plain way.

`FastReader.open` gives what `envelope.open` and `Schema.join` would give, or None: then the caller takes the plain way, which
gives it or says what is wrong. So nothing is refused here, and nothing is accepted that the plain way would not accept;
tests/test_fast.py holds the two against each other. The order is the plain one: verify, decrypt, parse; the steps are those of
``spec/envelope-v1.md``.

Between two round trips the processor's caches go cold, and what counts is how little code and memory a load touches. So this is one
function that walks the elements in step with the names it expects, and decodes those alone that the model reads from the metadata.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import bson
from bson import Int64, ObjectId
from pydantic import BaseModel

from . import envelope
from .errors import EnvelopeError, KeyUnavailableError
from .keys import KeyRing
from .lossless.reading import LOAD
from .schema import Schema

__all__ = ["FastReader"]

Model = TypeVar("Model", bound=BaseModel)

_STRING: Final = 0x02
_DOCUMENT: Final = 0x03
_BINARY: Final = 0x05
_OBJECT_ID: Final = 0x07
_BOOL: Final = 0x08
_NULL: Final = 0x0A
_INT32: Final = 0x10
_INT64: Final = 0x12
#: element type → the size of its value: those of which every bit pattern is valid, and bool
_FIXED: Final = {0x01: 8, _OBJECT_ID: 12, _BOOL: 1, 0x09: 8, _NULL: 0, _INT32: 4, _INT64: 8}
_IDENTITIES: Final = frozenset({_STRING, _BINARY, _OBJECT_ID, _INT32, _INT64})
_INTEGERS: Final = {_INT32: struct.Struct("<i").unpack_from, _INT64: struct.Struct("<q").unpack_from}

_length: Final = struct.Struct("<i").unpack_from
_UUID: Final = b"\x10\x00\x00\x00\x04"  # 16 bytes, subtype 4
_HMAC: Final = b"\x05hmac\x00\x20\x00\x00\x00\x00"
_VERSION: Final = b"\x10v\x00\x01\x00\x00\x00"
_IV: Final = b"\x05iv\x00\x10\x00\x00\x00\x00"

_Tag = Callable[[bytes], bytes]
_Decrypt = Callable[[bytes, bytes], bytes]


class FastReader(Generic[Model]):
    """Reads documents of one model in one context. Safe to share between threads."""

    def __init__(self, schema: Schema[Model], keys: KeyRing, context: str) -> None:
        """Work out in which order the elements of a sealed document stand."""
        stored = {field.stored: field for field in schema.stored if field.stored != "_id"}
        names = ["_id", *sorted([*stored, *(["idx"] if schema.blind else []), "data", "iv", "kid", "v"])]
        place = {name: number for number, name in enumerate(names)}
        self._names = tuple((name.encode() + b"\x00", len(name.encode()) + 2) for name in names)
        self._v, self._kid, self._iv, self._data = (place[name] for name in ("v", "kid", "iv", "data"))
        spliced = [field for field in schema.stored if field.spliced]
        self._spliced = tuple(
            (encode_basestring(field.name) + ":", place[field.stored], self._names[place[field.stored]][1]) for field in spliced
        )
        self._idx = place.get("idx", 0)
        self._is_idx_at = _Idx(schema, keys).is_at
        others = place.keys() - {field.stored for field in spliced} - {"v", "kid", "iv", "data", "idx"}
        self._others = tuple((place[name], self._names[place[name]][1]) for name in sorted(others))
        self._identity = schema.identity.name
        self._validate = schema._plan._validator.validate_json
        self._keys = keys
        self._context = context
        self._working: dict[bytes, tuple[_Tag, _Decrypt]] = {}  # by the whole kid element

    def open(  # noqa: C901, PLR0912, PLR0915 - flat: see above
        self, raw: bytes, expected: bytes = b""
    ) -> tuple[Any, bytes, Model] | None:
        """``(_id, hmac, model)``, or None for a document that the plain way has to look at.

        ``expected``: an element of ``idx``, without which a document is one of these.
        """
        try:
            # 1. The frame. An element runs from one number in `starts` to the next.
            stop = len(raw) - 44
            if _length(raw)[0] != len(raw) or raw[-1] or raw[stop:-33] != _HMAC:
                return None
            at = 4
            starts = [at]
            for name, width in self._names:
                if not raw.startswith(name, at + 1):
                    return None
                kind = raw[at]
                at += width
                if kind in _FIXED:
                    at += _FIXED[kind]
                else:
                    counted = _length(raw, at)[0]
                    if kind == _STRING and counted > 0:
                        at += 4 + counted
                    elif kind == _BINARY and counted >= 0:
                        at += 5 + counted
                    elif kind == _DOCUMENT and counted >= 5 and name == b"idx\x00":
                        at += counted
                    else:
                        return None
                starts.append(at)
            # 2. The version. 3. The key.
            v, kid = self._v, self._kid
            if at != stop or raw[starts[v] : starts[v + 1]] != _VERSION:
                return None
            element = raw[starts[kid] : starts[kid + 1]]
            tag, decrypt = self._working.get(element) or self._learn(element)
            # 4. The tag, in constant time; the right one gets no name. Before this line nothing is decoded.
            if not hmac.compare_digest(tag(raw[4:stop]), raw[-33:-1]):
                return None
            # 5. What `bson.decode` would refuse, or read as something else, is not for here; then decrypt.
            for number, width in self._others:
                at = starts[number]
                if not _is_valid(raw, raw[at], at + width, starts[number + 1]):
                    return None
            idx = self._idx
            if idx and not (
                self._is_idx_at(raw, starts[idx] + 9, starts[idx + 1] - 1) and expected in raw[starts[idx] : starts[idx + 1]]
            ):
                return None
            iv, data = starts[self._iv], starts[self._data]
            kind = raw[4]
            if not raw.startswith(_IV, iv) or raw[data] != _BINARY or raw[data + 10] or kind not in _IDENTITIES:
                return None
            payload = decrypt(raw[iv + 9 : iv + 25], raw[data + 11 : starts[self._data + 1]])
            if not payload.startswith(b'{"'):
                return None
            # 6. One JSON object of metadata and payload, as `Schema.join` puts it together.
            head = "{"
            for key, number, width in self._spliced:
                at = starts[number]
                head += key
                kind, at, end = raw[at], at + width, starts[number + 1]
                if kind == _STRING:
                    if raw[end - 1]:
                        return None
                    head += encode_basestring(raw[at + 4 : end - 1].decode())
                elif kind == _BINARY:
                    if not raw.startswith(_UUID, at):
                        return None
                    text = raw[at + 5 : end].hex()
                    head += f'"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"'
                elif kind in _INTEGERS:
                    head += str(_INTEGERS[kind](raw, at)[0])
                elif kind == _OBJECT_ID:
                    head += f'"{raw[at:end].hex()}"'
                elif kind == _NULL:
                    head += "null"
                elif kind == _BOOL and raw[at] <= 1:
                    head += "true" if raw[at] else "false"
                else:
                    return None
                head += ","
            model: Model = self._validate(head.encode() + payload[1:], context=LOAD)
            return self._id(raw, starts[1], model), raw[-33:-1], model
        except Exception:  # noqa: BLE001 - whatever it is, the plain way says it, and says it without a value
            return None

    def _learn(self, element: bytes) -> tuple[_Tag, _Decrypt]:
        """The two operations under the key that a kid element names, as the plain way finds it. Raise what it raises."""
        try:
            kid = envelope._kid(element[:1] + element[5:])
            working = self._keys.working_keys(kid, self._context)
        except (EnvelopeError, KeyUnavailableError):
            raise LookupError from None
        return self._working.setdefault(element, (working.authenticator.tag, working.cipher.decrypt))

    def _id(self, raw: bytes, end: int, model: Model) -> Any:
        """The ``_id`` as `bson.decode` gives it. The model's own value, where it is the same one, saves making another."""
        kind = raw[4]
        if kind == _STRING:
            return raw[13 : end - 1].decode()
        if kind in _INTEGERS:
            number = _INTEGERS[kind](raw, 9)[0]
            return Int64(number) if kind == _INT64 else number
        held, value = model.__dict__.get(self._identity), raw[end - (12 if kind == _OBJECT_ID else 16) : end]
        if kind == _OBJECT_ID:
            return held if type(held) is ObjectId and held.binary == value else ObjectId(value)
        return held if type(held) is UUID and held.bytes == value else UUID(bytes=value)


class _Idx:
    """What ``idx`` looks like as this model seals it: whether a verified one does. No other is taken the short way."""

    def __init__(self, schema: Schema[Any], keys: KeyRing) -> None:
        written = list(keys.written_index_keys)
        self._kids = tuple(
            bson.encode({"kid": kids})[4:-1] for kids in ([*keys.index_keys, written] if len(written) > 1 else keys.index_keys)
        )
        in_order = sorted(schema.blind, key=lambda each: each.name.encode())
        #: of each index: a single value's element up to the value, an array's up to its length, the size of a value
        self._values = tuple((each.head, b"\x04" + each.head[1:-5], each.bits // 8) for each in in_order)

    def is_at(self, raw: bytes, at: int, end: int) -> bool:
        """Whether between ``at`` and ``end`` there are a kid of ours, or several, and then values in the order of their names."""
        for kid in self._kids:
            if raw.startswith(kid, at):
                at += len(kid)
                break
        else:
            return False
        for single, array, size in self._values:
            if raw.startswith(single, at):
                at += len(single) + size
            elif raw.startswith(array, at):
                at += len(array)
                if not _are_values(raw, at, size):
                    return False
                at += _length(raw, at)[0]
        return at == end and raw[end] == 0


def _are_values(raw: bytes, at: int, size: int) -> bool:
    """Whether an array of values, each of this size, begins here."""
    end, at, number = at + _length(raw, at)[0] - 1, at + 4, 0
    head = size.to_bytes(4, "little") + b"\x00"
    while at < end:
        name = b"\x05%d\x00" % number + head
        if not raw.startswith(name, at):
            return False
        at += len(name) + size
        number += 1
    return bool(at == end and raw[end] == 0)


def _is_valid(raw: bytes, kind: int, at: int, end: int) -> bool:
    """Whether `bson.decode` takes the value, whose frame is right, and reads nothing into it."""
    if kind == _STRING:
        raw[at + 4 : end - 1].decode()
        return not raw[end - 1]
    if kind == _BINARY:
        return not raw[at + 4] or (raw[at + 4] == 4 and end - at == 21)
    return kind != _BOOL or raw[at] <= 1
