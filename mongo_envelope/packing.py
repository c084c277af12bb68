"""The short way to seal an instance whose values have types that were sealed before. Everything else goes the plain way.

`FastWriter.seal` gives the bytes that `Schema.split` and `envelope.seal` would give under the same IV, or None: then the caller
takes the plain way, which gives them or says what is wrong, and lets `learn` know. So nothing is refused here, and nothing is
sealed that the plain way would not seal; tests/test_packing.py holds the two against each other.

What is saved is in knowing beforehand: which types the fields of such an instance have, one look-up for all of them; in which order
its elements stand; and how a value of each type becomes BSON.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import bson
from bson import ObjectId
from bson.timestamp import Timestamp
from pydantic import BaseModel

from . import envelope, primitives
from .keys import KeyRing
from .lossless import check_depth
from .lossless.leaves import project_datetime
from .schema import Schema, StoredField

__all__ = ["FastWriter"]

Model = TypeVar("Model", bound=BaseModel)
Pack = Callable[[Any], bytes]  # a value → its whole element

#: Of so many combinations of types the short way knows how to seal them; a model of many unions has more.
_MOST: Final = 256

_int32: Final = struct.Struct("<i").pack
_int64: Final = struct.Struct("<q").pack
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class FastWriter(Generic[Model]):
    """Seals instances of one model in one context. Safe to share between threads."""

    def __init__(self, schema: Schema[Model], keys: KeyRing, context: str) -> None:
        """Work out in which order the elements of a sealed document stand."""
        self._model = schema.model
        self._schema = schema
        self._fields = {field.stored: field for field in schema.stored}
        nodes = {**schema.places, **{field.name: field.node for field in schema.stored}}
        self._names = tuple(schema.model.model_fields)
        self._nodes = tuple(nodes[name] for name in self._names)
        self._deep = tuple((name, deep) for name in self._names if (deep := nodes[name].deep) is not None)
        self._serializer_of = schema._plan.serializer_of
        self._shallow = schema._plan.shallow
        self._identity, self._project = schema.identity.name, schema.identity.node.project
        #: computed and extra values are looked at one by one, as is an id that BSON might round
        self._possible = not schema.computed and not schema.extras and not schema.identity.node.rounds
        order = ["_id", *sorted([*(self._fields.keys() - {"_id"}), "data", "iv", "kid", "v", *(["idx"] if schema.blind else [])])]
        self._stored = tuple(name for name in order if name in self._fields)
        kid = keys.primary.encode()
        own = {
            "data": b"\x05data\x00%b\x00%b",
            "iv": b"\x05iv\x00\x10\x00\x00\x00\x00%b",
            "kid": b"\x02kid\x00" + _int32(len(kid) + 1) + kid + b"\x00",
            "v": b"\x10v\x00\x01\x00\x00\x00",
        }
        self._template = b"".join(own.get(name, b"%b") for name in order)
        self._before = sum(name in self._fields for name in order[: order.index("data")])
        self._behind = sum(name in self._fields for name in order[: order.index("iv")])
        self._keys = keys
        self._context = context
        self._packs: dict[tuple[type, ...], tuple[tuple[str, Pack], ...]] = {}

    def seal(
        self, model: Model, idx: Callable[[Model], Any] | None, pad: Callable[[bytes], bytes] | None
    ) -> tuple[Any, bytes] | None:
        """The ``_id`` and the sealed document, or None for an instance that the plain way has to look at.

        ``idx`` gives the index values, ``pad`` the payload with its padding.
        """
        return self._seal_with(model, idx, pad, iv=os.urandom(primitives.IV_BYTES))

    def _seal_with(self, model: Model, idx: Any, pad: Any, *, iv: bytes) -> tuple[Any, bytes] | None:
        """`seal`, deterministic. Only tests call it with an ``iv`` of their own."""
        try:
            values = model.__dict__
            packs = self._packs.get((*map(type, values.values()),))
            if packs is None or type(model) is not self._model or (*values,) != self._names:
                return None
            for name, check in self._deep:
                check(values[name])
            payload = self._serializer_of(values).to_json(model, warnings=False)
            if not self._shallow:
                check_depth(payload)
            if pad is not None:
                payload = pad(payload)
            elements = [pack(values[name]) for name, pack in packs]
            before, behind = self._before, self._behind
            if idx is not None:
                elements.insert(behind, bson.encode({"idx": idx(model)})[4:-1])
                behind += 1
            working = self._keys.working_keys(self._keys.primary, self._context)
            data = working.cipher.encrypt(iv, payload)
            signed = self._template % (
                *elements[:before],
                _int32(len(data)),
                data,
                *elements[before:behind],
                iv,
                *elements[behind:],
            )
            identity = values[self._identity]
            return identity if self._project is None else self._project(identity), envelope.tagged(signed, working.authenticator)
        except Exception:  # noqa: BLE001 - whatever it is, the plain way says it, and says it without a value
            return None

    def learn(self, model: Model) -> None:
        """Note the types of the values of an instance that the plain way has sealed."""
        values = model.__dict__
        types = (*map(type, values.values()),)
        if not self._possible or len(self._packs) >= _MOST or (*values,) != self._names or Timestamp in types:
            return
        if all(kind in node.types for kind, node in zip(types, self._nodes, strict=True)):
            self._packs[types] = tuple(
                (field.name, _pack(field, type(values[field.name]))) for field in map(self._fields.__getitem__, self._stored)
            )


def _pack(field: StoredField, kind: type) -> Pack:
    """How values of one type become the element of a field."""
    name = field.stored.encode() + b"\x00"
    project = field.node.project
    if project is None and kind in _DIRECT:
        return _DIRECT[kind](name)
    if kind is datetime and project is project_datetime:
        return _datetime(name)
    stored = field.stored
    return lambda value: bson.encode({stored: value if project is None else project(value)}, False, envelope.CODEC_OPTIONS)[4:-1]


def _text(name: bytes) -> Pack:
    head = b"\x02" + name

    def pack(value: str) -> bytes:
        text = value.encode()
        return b"%b%b%b\x00" % (head, _int32(len(text) + 1), text)

    return pack


def _uuid(name: bytes) -> Pack:
    head = b"\x05" + name + b"\x10\x00\x00\x00\x04"
    return lambda value: head + value.bytes


def _object_id(name: bytes) -> Pack:
    head = b"\x07" + name
    return lambda value: head + value.binary


def _null(name: bytes) -> Pack:
    element = b"\x0a" + name
    return lambda _: element


def _bool(name: bytes) -> Pack:
    false, true = b"\x08" + name + b"\x00", b"\x08" + name + b"\x01"
    return lambda value: true if value else false


def _int(name: bytes) -> Pack:
    short, long = b"\x10" + name, b"\x12" + name
    return lambda value: short + _int32(value) if -(2**31) <= value < 2**31 else long + _int64(value)


def _datetime(name: bytes) -> Pack:
    """Milliseconds, rounded down. A naive one is for the plain way: it cannot be subtracted."""
    head = b"\x09" + name
    return lambda value: head + _int64((value - _EPOCH) // _MILLISECOND)


#: type → its element under a name. Of other types `bson` makes it.
_DIRECT: Final[Mapping[type, Callable[[bytes], Pack]]] = {
    str: _text,
    UUID: _uuid,
    ObjectId: _object_id,
    type(None): _null,
    bool: _bool,
    int: _int,
}
