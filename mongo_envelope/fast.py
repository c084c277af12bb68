"""The short way to read a document that is exactly as this model seals it today. Everything else goes the plain way.

`FastReader.open` gives what `envelope.open` and `Schema.join` would give, or None: then the caller takes the plain way, which
gives it or says what is wrong. So nothing is refused here, and nothing is accepted that the plain way would not accept;
tests/test_fast.py holds the two against each other. The order is the plain one: verify, decrypt, parse; the steps are those of
``spec/envelope-v1.md``.

What a model seals is so regular that two regular expressions describe it: the elements up to the length of ``data``, and those
behind ``data``. They are matched in C, and what they find goes into JSON as it stands: it is UTF-8 on both sides. What would need
an escape there (a quote, a control character), and lists and documents in the clear, are left to the plain way.

The steps are written down in `_OPEN`, with holes for what a model adds: its groups, its lengths and its values. `straight` compiles
it, once for each model; `FastReader.source` is what is run.
"""

from __future__ import annotations

import functools
import hmac
import json
import re
import struct
from binascii import hexlify
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import bson
from bson import Int64, ObjectId
from pydantic import BaseModel

from . import envelope
from .errors import EnvelopeError, KeyUnavailableError
from .keys import KeyRing
from .lossless.leaves import is_alone
from .lossless.reading import LOAD
from .schema import Schema, StoredField
from .straight import function

__all__ = ["FastReader"]

Model = TypeVar("Model", bound=BaseModel)

_length: Final = struct.Struct("<i").unpack_from
_int64: Final = struct.Struct("<q").unpack_from
#: Regular expressions of elements; each group is numbered by `_Pattern`.
_VERSION: Final = rb"\x10v\x00\x01\x00\x00\x00"
_IV: Final = rb"\x05iv\x00\x10\x00\x00\x00\x00(.{16})"
_KID: Final = rb"\x02kid\x00(.{4}[A-Za-z0-9_.-]{1,64})\x00"
_DATA: Final = rb"\x05data\x00.{4}\x00"
#: UTF-8 that stands in JSON as it stands in BSON: RFC 8259, section 7. That it is UTF-8 pydantic's parser checks.
_UNESCAPED: Final = rb'[^\x00-\x1f"\\]*'

_Tag = Callable[[bytes], bytes]
_Decrypt = Callable[[bytes, bytes], bytes]
_Opened = tuple[Any, bytes, Any]

#: How one document is opened. What stands in angle brackets a model fills in.
_OPEN: Final = """\
def open(raw, expected=b""):
    try:
        # 1. The frame, and in it what the model seals, element by element. 2. The version is one of them.
        size = len(raw)
        stop = size - 44
        before = match_before(raw, 4, stop)
        if before is None or raw[stop:-33] != TAG_HEADER or length(raw)[0] != size or raw[-1]:
            return None
        start = before.end()
        end = start + length(raw, start - 5)[0]
        after = match_after(raw, end, stop)
        if after is None or end < start:
            return None
        <groups before data>, = before.groups()
        <groups behind data>, = after.groups()
        # 3. The key.
        tag, decrypt = working.get(<kid>) or learn(<kid>)
        # 4. The tag, in constant time; the right one gets no name. Before this line nothing is decoded.
        found = raw[-33:-1]
        if not compare_digest(tag(raw[4:stop]), found):
            return None
        # 5. The lengths that a regular expression cannot count; then decrypt.
        if <a length is wrong>:
            return None
        payload = decrypt(<iv>, raw[start:end])
        if payload[:2] != b'{"':
            return None
        # 6. One JSON object of metadata and payload, as `Schema.join` puts it together.
        model = validate(JSON % (<values>payload[1:]), context=LOAD)
        return <identity>, found, model
    except Exception:  # whatever it is, the plain way says it, and says it without a value
        return None
"""


class FastReader(Generic[Model]):
    """Reads documents of one model in one context. Safe to share between threads."""

    #: ``open(raw, expected=b"")``: ``(_id, hmac, model)``, or None for a document that the plain way has to look at, as is one in
    #: whose ``idx`` the element ``expected`` is not.
    open: Callable[..., _Opened | None]

    def __init__(self, schema: Schema[Model], keys: KeyRing, context: str) -> None:
        """Describe a sealed document."""
        fields = {field.stored: field for field in schema.stored if field.stored != "_id"}
        own = {"iv": _IV, "kid": _KID, "v": _VERSION}
        pattern = _Pattern(alone=schema._plan.alone)
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
        #: How documents are opened, as text.
        self.source = pattern.filled(_OPEN, [field.name for field in schema.stored])
        #: by length and text of the kid
        working: dict[bytes, tuple[_Tag, _Decrypt]] = {}
        names = {
            "match_before": re.compile(pattern.parts[0], re.DOTALL).match,
            "match_after": re.compile(pattern.parts[1], re.DOTALL).fullmatch,
            "TAG_HEADER": envelope.TAG_HEADER,
            "length": _length,
            "working": working,
            "learn": functools.partial(_learn, working, keys, context),
            "compare_digest": hmac.compare_digest,
            "JSON": pattern.metadata + b"%b",
            "validate": schema._plan._validator.validate_json,
            "LOAD": LOAD,
        }
        self.open = function("open", self.source, {**names, **pattern.names})


def _learn(working: dict[bytes, tuple[_Tag, _Decrypt]], keys: KeyRing, context: str, element: bytes) -> tuple[_Tag, _Decrypt]:
    """The two operations under the key that length and text of a kid name, as the plain way finds it. Raise what it raises."""
    try:
        kid = envelope._kid(b"\x02" + element + b"\x00")
        if _length(element)[0] != len(element) - 3:
            raise LookupError
        found = keys.working_keys(kid, context)
    except (EnvelopeError, KeyUnavailableError):
        raise LookupError from None
    return working.setdefault(element, (found.authenticator.tag, found.cipher.decrypt))


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
#: Of a number beyond it, and of none up to it, pydantic knows that it is milliseconds.
_SECONDS: Final = 20_000_000_000


class _Sizes(dict[int, bytes]):
    """Of the length of a text, what stands before it in BSON. Those that are usual are there already."""

    def __missing__(self, length: int) -> bytes:
        return (length + 1).to_bytes(4, "little")


_SIZES: Final = _Sizes({length: (length + 1).to_bytes(4, "little") for length in range(256)})


class _Pattern:
    """Two regular expressions, put together element by element; and, of their groups g0, g1 …, what is done with each."""

    def __init__(self, *, alone: bool) -> None:
        self.parts = [b"", b""]  #: before the bytes of ``data``, and after them
        self.metadata = b""  #: the values in the clear as JSON, with a place for each
        self.names: dict[str, Any] = {
            "hexlify": hexlify,
            "int64": _int64,
            "moment": _moment_as_json,
            "brief": _moment_in_brief,
            "UUID": UUID,
            "number": int.from_bytes,
            "SIZES": _SIZES,
        }
        self._alone = alone
        self._groups: list[list[str]] = [[], []]
        self._own: dict[str, str] = {}  # the groups of ``iv`` and ``kid``
        self._wrong: list[str] = []  # each true of a length that is wrong
        #: field → its value in JSON, with a place for what an expression gives
        self._values: dict[str, tuple[bytes, str]] = {}
        self._moments: list[str] = []  # of fields whose exact value comes behind, in the payload, if it is there
        self._identity = ""
        self._part = 0

    def add(self, pattern: bytes, name: str = "") -> list[str]:
        """One element. Its groups."""
        self.parts[self._part] += pattern
        first = len(self._groups[0]) + len(self._groups[1])
        groups = [f"g{first + number}" for number in range(re.compile(pattern).groups)]
        self._groups[self._part] += groups
        if name and groups:
            self._own[name] = groups[0]
        return groups

    def cut(self) -> None:
        """What follows stands behind the bytes of ``data``."""
        self._part = 1

    def add_field(self, field: StoredField) -> None:
        """A field in the clear: a text, or one of several scalars."""
        name = re.escape(field.stored.encode()) + rb"\x00"
        node, is_id = field.node, field.stored == "_id"
        # What pydantic's parser alone looks at may come in the form that is written fastest.
        alone = self._alone and is_alone(node.schema)
        if field.is_moment:
            [group] = self.add(rb"\x09%s(.{8})" % name)
            self._values[field.name] = b"%b", f"{'brief' if alone else 'moment'}({group})"
            identity = f"{self._called('as_identity', _moment)}({group})"
        elif not field.spliced:
            forms = [re.escape(bytes([kind])) + name + value for kind, value in _UNREAD.items()]
            length, text, moment = self.add(b"(?:%s|\x02%s(.{4})([\x01-\x7f]*)\x00|\x09%s(.{8}))" % (b"|".join(forms), name, name))
            self._wrong.append(f"{text} is not None and length({length})[0] != len({text}) + 1")
            if not field.computed:
                head = self._called("HEAD", json.dumps(field.name).encode() + b":")
                self._moments.append(f"({head} + moment({moment}) + b',' if {moment} is not None else b'')")
            identity = f"{self._called('as_identity', _for_the_plain_way)}({text})"
        elif node.kinds == {"string"} and not {UUID, ObjectId, bytes} & {*node.types} and not is_id:
            length, text = self.add(rb"\x02%s(.{4})(%s)\x00" % (name, _UNESCAPED))
            self._wrong.append(f"{length} != SIZES[len({text})]")
            self._values[field.name] = b'"%b"', text
            return
        elif node.types == {UUID}:
            [group] = self.add(rb"\x05%s\x10\x00\x00\x00\x04(.{16})" % name)
            convert = "hexlify" if alone else self._called("as_json", _uuid_as_json)
            self._values[field.name] = b'"%b"', f"{convert}({group})"
            # What the model holds is most often what BSON holds. Making it again is for the rest.
            held = f"(held := model.__dict__[{self._called('NAME', field.name)}])"
            made = f"{self._called('as_identity', _uuid)}({group})"
            identity = f"held if type{held} is UUID and held.int == number({group}, 'big') else {made}"
        else:
            forms = [re.escape(bytes([kind])) + name + value for kind, value in _SCALARS.items()]
            [group] = self.add(b"(%s)" % b"|".join(forms))
            width = len(field.stored.encode()) + 2
            convert = self._called("as_json", lambda element: _as_json(element[0], element[width:]))
            self._values[field.name] = b"%b", f"{convert}({group})"
            identity = f"{self._called('as_identity', _identity)}({group})"
        if is_id:
            self._identity = identity

    def add_idx(self, schema: Schema[Any], keys: KeyRing) -> None:
        """``idx`` as this model seals it: a kid of ours, or several, and then values in the order of their names."""
        written = list(keys.written_index_keys)
        known = [*keys.index_keys, written] if len(written) > 1 else keys.index_keys
        kids = b"|".join(re.escape(bson.encode({"kid": each})[4:-1]) for each in known)
        pattern, sizes = b"", []
        for each in sorted(schema.blind, key=lambda each: each.name.encode()):
            size = each.bits // 8
            value = rb"%s\x00.{%d}" % (re.escape(size.to_bytes(4, "little")), size)
            name = re.escape(each.name.encode()) + rb"\x00"
            pattern += rb"(?:\x05%s%s|\x04%s(.{4}(?:\x05[0-9]++\x00%s)*+\x00))?" % (name, value, name, value)
            sizes.append(size)
        idx, *arrays = self.add(rb"\x03idx\x00(.{4}(?:%s)%s\x00)" % (kids, pattern))
        self._wrong.append(f"length({idx})[0] != len({idx}) or expected not in {idx}")
        are_values = self._called("are_values", _are_values)
        self._wrong += [
            f"{array} is not None and not {are_values}({array}, {size})" for array, size in zip(arrays, sizes, strict=True)
        ]

    def _called(self, name: str, value: Any) -> str:
        """A name for something in the source."""
        name = f"{name}{len(self.names)}"
        self.names[name] = value
        return name

    def filled(self, source: str, order: Sequence[str]) -> str:
        """The source of how a document is opened, once all elements are known; and `metadata`. ``order``: of fields."""
        expressions = []
        for field in order:
            if field in self._values:
                form, expression = self._values[field]
                self.metadata += json.dumps(field).encode().replace(b"%", b"%%") + b":" + form + b","
                expressions.append(expression)
        self.metadata = b"{" + b"%b" * len(self._moments) + self.metadata
        holes = {
            "groups before data": ", ".join(self._groups[0]),
            "groups behind data": ", ".join(self._groups[1]),
            **self._own,
            "a length is wrong": " or ".join(f"({each})" for each in self._wrong) or "False",
            "values": "".join(f"{each}, " for each in [*self._moments, *expressions]),
            "identity": self._identity,
        }
        return re.sub("<([a-z ]+)>", lambda hole: holes[hole[1]], source)


def _uuid_as_json(value: bytes) -> bytes:
    """RFC 9562, section 4, without quotes."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()


def _moment_as_json(value: bytes) -> bytes:
    """RFC 3339, in UTC, as pydantic writes it. If BSON has changed the moment, the payload has it, too, and comes behind."""
    return f'"{(_EPOCH + timedelta(0, 0, 0, _int64(value)[0])).isoformat()}Z"'.encode()


def _moment_in_brief(value: bytes) -> bytes:
    """The same moment for pydantic's parser alone: milliseconds, if it takes them for that."""
    moment = _int64(value)[0]
    return b"%d" % moment if not -_SECONDS <= moment <= _SECONDS else _moment_as_json(value)


def _for_the_plain_way(_: bytes) -> Any:
    """An ``_id`` that no group holds whole."""
    raise ValueError


def _moment(value: bytes) -> Any:
    """As `bson.decode` gives it."""
    return bson.decode(b"\x0f\x00\x00\x00\x09\x00" + value + b"\x00", envelope.CODEC_OPTIONS)[""]


def _as_json(kind: int, value: bytes) -> bytes:
    """A scalar of BSON as JSON. Raise `ValueError` for a text whose length is not the one that it says."""
    if kind == _BINARY:
        return b'"' + _uuid_as_json(value[5:]) + b'"'
    if kind == _STRING:
        if _length(value)[0] != len(value) - 4:
            raise ValueError
        return b'"' + value[4:-1] + b'"'
    if kind in _INTEGERS:
        return b"%d" % _INTEGERS[kind](value)[0]
    if kind == _OBJECT_ID:
        return b'"%s"' % value.hex().encode()
    return b"null" if kind == _NULL else b"true" if value[0] else b"false"


def _uuid(value: bytes) -> UUID:
    """An ``_id`` of this type."""
    return UUID(bytes=value)


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
