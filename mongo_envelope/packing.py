"""The short way to seal an instance whose values have types that were sealed before. Everything else goes the plain way.

`FastWriter.seal` gives the bytes that `Schema.split` and `envelope.seal` would give under the same IV, or None: then the caller
takes the plain way, which gives them or says what is wrong, and lets `learn` know. So nothing is refused here, and nothing is
sealed that the plain way would not seal; tests/test_packing.py holds the two against each other.

What is saved is in knowing beforehand: which types the fields of such an instance have, one look-up for all of them; in which order
its elements stand; and how a value of each type becomes BSON. The steps are written down in `_SEAL`, with holes for what a model
adds; `straight` compiles it, once for each combination of types that stands in the clear.
"""

from __future__ import annotations

import operator
import re
import struct
from collections.abc import Callable
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
from .lossless.leaves import kept, project_datetime
from .schema import Schema, StoredField
from .straight import function

__all__ = ["FastWriter"]

Model = TypeVar("Model", bound=BaseModel)
_Sealing = Callable[..., tuple[Any, bytes]]

#: Of so many combinations of types the short way knows how to seal them; a model of many unions has more.
_MOST: Final = 256

_int32: Final = struct.Struct("<i").pack
_int64: Final = struct.Struct("<q").pack
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

#: How one instance is sealed. What stands in angle brackets a model fills in, and the types of what it has in the clear.
_SEAL: Final = """\
def seal(model, values, take_iv, idx, pad):
    <values>, = values.values()
    # What has to be looked at in each value, beside its type.
    <checks>
    payload = <serializer>.to_json(model, warnings=False)
    <afterwards>
    <depth>
    if pad is not None:
        payload = pad(payload)
    # Nothing of a user's runs between these two.
    iv = take_iv()
    data = encrypt(iv, payload)
    <texts>
    signed = ELEMENTS % (<elements>)
    return <identity>, tagged(signed, authenticator)
"""
#: The elements that are the envelope's own, and what fills them.
_OWN: Final = {
    "data": (b"\x05data\x00%b\x00%b", ("int32(len(data))", "data")),
    "iv": (b"\x05iv\x00\x10\x00\x00\x00\x00%b", ("iv",)),
    "kid": (b"%b", ("KID",)),
    "v": (b"\x10v\x00\x01\x00\x00\x00", ()),
    "idx": (b"%b", ("encode({'idx': idx(model)})[4:-1]",)),
}


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
        #: computed and extra values are looked at one by one, as is an id that BSON might round
        self._possible = not schema.computed and not schema.extras and not schema.identity.node.rounds
        own = ["data", "iv", "kid", "v", *(["idx"] if schema.blind else [])]
        self._order = ["_id", *sorted([*(self._fields.keys() - {"_id"}), *own])]
        self._keys = keys
        self._context = context
        self._learned: dict[tuple[type, ...], _Sealing] = {}  # by the types of all fields
        self._compiled: dict[tuple[type, ...], _Sealing] = {}  # by the types of those in the clear

    def seal(
        self,
        model: Model,
        idx: Callable[[Model], Any] | None,
        pad: Callable[[bytes], bytes] | None,
        take_iv: Callable[[], bytes] = primitives.fresh_iv,
    ) -> tuple[Any, bytes] | None:
        """The ``_id`` and the sealed document, or None for an instance that the plain way has to look at.

        ``idx`` gives the index values, ``pad`` the payload with its padding, ``take_iv`` an IV that nothing else is sealed under.
        """
        try:
            values = model.__dict__
            sealing = self._learned.get((*map(type, values.values()),))
            if sealing is None or type(model) is not self._model or (*values,) != self._names:
                return None
            return sealing(model, values, take_iv, idx, pad)
        except Exception:  # noqa: BLE001 - whatever it is, the plain way says it, and says it without a value
            return None

    def learn(self, model: Model) -> None:
        """Note the types of the values of an instance that the plain way has sealed."""
        values = model.__dict__
        types = (*map(type, values.values()),)
        if not self._possible or len(self._learned) >= _MOST or (*values,) != self._names or Timestamp in types:
            return
        if values[self._schema.identity.name] is None:  # another thread has changed it: a stored document has an id
            return
        if all(kind in node.types for kind, node in zip(types, self._nodes, strict=True)):
            clear = tuple(type(values[field.name]) for field in self._fields.values())
            if clear not in self._compiled:
                self._compiled[clear] = function("seal", *self._written_out(dict(zip(self._fields, clear, strict=True))))
            self._learned[types] = self._compiled[clear]

    def _written_out(self, kinds: dict[str, type]) -> tuple[str, dict[str, Any]]:
        """How instances are sealed whose values in the clear have these types, by stored name; and what the source speaks of."""
        value = {name: f"v{number}" for number, name in enumerate(self._names)}
        plan, working = self._schema._plan, self._keys.sealing_keys(self._context)
        names = {
            "int32": _int32,
            "int64": _int64,
            "encode": bson.encode,
            "EPOCH": _EPOCH,
            "MILLISECOND": _MILLISECOND,
            "KID": envelope.kid_element(self._keys.primary),
            "kept": kept,
            "same": _are_the_same,
            "whole": plan._serializer,
            "brief": plan._without_moments,
            "check_depth": check_depth,
            "encrypt": working.cipher.encrypt,
            "tagged": envelope.tagged,
            "authenticator": working.authenticator,
            "project": self._schema.identity.node.project,
        }
        checks: list[str] = []
        texts: list[str] = []
        elements: list[str] = []
        template = b""
        for name, node in zip(self._names, self._nodes, strict=True):
            if node.deep is not None:
                names[f"check_{value[name]}"] = node.deep
                checks.append(f"check_{value[name]}({value[name]})")
        for stored in self._order:
            if stored in self._fields:
                field = self._fields[stored]
                packing = _Packing(field, kinds[stored], value[field.name])
                names.update(packing.names)
                texts += packing.before
                form, given = packing.form, packing.given
            else:
                form, given = _OWN[stored]
            template += form
            elements += given
        identity = value[self._schema.identity.name]
        holes = {
            "values": ", ".join(value.values()),
            "checks": "; ".join(checks) or "pass",
            "serializer": f"(brief if {' and '.join(f'kept({value[name]})' for name in plan.moments)} else whole)"
            if plan.moments
            else "whole",
            # A user's dump= is called in there. What it does to the instance, if anything, the plain way sees.
            "afterwards": f"if not same(values, ({', '.join(value.values())},)): raise ValueError" if plan._codecs else "pass",
            "depth": "pass" if plan.shallow else "check_depth(payload)",
            "texts": "; ".join(texts) or "pass",
            "elements": "".join(f"{each}, " for each in elements),
            "identity": identity if names["project"] is None else f"project({identity})",
        }
        return re.sub("<([a-z]+)>", lambda hole: holes[hole[1]], _SEAL), {**names, "ELEMENTS": template}


class _Packing:
    """How values of one type become the element of a field: a form, and what fills it. ``value``: what the source calls it."""

    def __init__(self, field: StoredField, kind: type, value: str) -> None:
        name = field.stored.encode().replace(b"%", b"%%") + b"\x00"
        project = field.node.project
        self.names: dict[str, Any] = {}  #: what the source speaks of
        self.before: list[str] = []  #: what is done first
        self.given: tuple[str, ...] = ()
        if kind is datetime and project is project_datetime:
            # Milliseconds, rounded down. A naive one is for the plain way: it cannot be subtracted.
            self.form, self.given = b"\x09" + name + b"%b", (f"int64(({value} - EPOCH) // MILLISECOND)",)
        elif project is not None or kind not in (str, UUID, ObjectId, type(None), bool, int):
            self.form, self.given = b"%b", (f"pack_{value}({value})",)
            self.names[f"pack_{value}"] = _by_bson(field.stored, project)
        elif kind is str:
            self.form, self.given = b"\x02" + name + b"%b%b\x00", (f"int32(len(text_{value}) + 1)", f"text_{value}")
            self.before = [f"text_{value} = {value}.encode()"]
        elif kind is UUID:
            self.form, self.given = b"\x05" + name + b"\x10\x00\x00\x00\x04%b", (f"{value}.bytes",)
        elif kind is ObjectId:
            self.form, self.given = b"\x07" + name + b"%b", (f"{value}.binary",)
        elif kind is bool:
            self.form, self.given = b"\x08" + name + b"%b", (f"(b'\\x01' if {value} else b'\\x00')",)
        elif kind is int:
            self.form, self.given = b"%b", (f"pack_{value}({value})",)
            self.names[f"pack_{value}"] = _int(field.stored.encode() + b"\x00")
        else:
            self.form = b"\x0a" + name


def _are_the_same(values: dict[str, Any], before: tuple[Any, ...]) -> bool:
    """Whether the values of an instance are the objects that they were."""
    return len(values) == len(before) and all(map(operator.is_, values.values(), before))


def _int(name: bytes) -> Callable[[int], bytes]:
    short, long = b"\x10" + name, b"\x12" + name
    return lambda value: short + _int32(value) if -(2**31) <= value < 2**31 else long + _int64(value)


def _by_bson(stored: str, project: Callable[[Any], Any] | None) -> Callable[[Any], bytes]:
    """For values of any other type."""
    return lambda value: bson.encode({stored: value if project is None else project(value)}, False, envelope.CODEC_OPTIONS)[4:-1]
