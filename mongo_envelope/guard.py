"""The guard: a validator of the collection, made from a model, by which the server refuses plaintext from every other client.

`validator` gives the envelope, the fields in the clear with the types that they can have, and no other name. A document with one
field more, or without its tag, is not written, whoever writes it and by whatever command; what is sealed passes. `merged` puts it
beside a validator that is there already, `without` takes it away again, `installed` finds it. All of it is pure: `provision` asks
the server.

It is for plaintext by mistake, from a shell or a job that knows nothing of sealing, and not for forgeries: of 16 bytes the server
cannot know whether they are an iv. What a document is worth is found out when it is opened.

Source: the MongoDB manual, "Schema Validation", "$jsonSchema", "$binarySize".
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from types import NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from bson import ObjectId
from pydantic import AnyUrl, BaseModel, ByteSize, MongoDsn, NatsDsn, PostgresDsn, RootModel
from pydantic.networks import NameEmail

from .lossless import Node
from .lossless.classes import ADDRESSES
from .lossless.node import Kind
from .primitives import IV_BYTES, TAG_BYTES
from .schema import Schema

__all__ = ["installed", "merged", "validator", "without"]

_MARK: Final = "mongo_envelope guard v"
#: The title, by which ours is found again, in whatever version. The server gives it to a client whose write it refuses.
_TITLE: Final = _MARK + "1"
_DESCRIPTION: Final = "Sealed documents only: write through mongo_envelope"


def validator(schema: Schema[Any]) -> dict[str, Any]:
    """What ``create`` and ``collMod`` take as ``validator``. The same model always gives the same, in the same order.

    It refuses no document that the model can seal. The names in it stand in every stored document anyway.
    """
    fields = {field.stored: _property(_bson_types(field.node)) for field in schema.stored}
    fields["_id"] = _property(_bson_types(schema.identity.node) - {"null"})  # None becomes an ObjectId, before it is stored
    if schema.blind_names:
        fields["idx"] = _idx(schema.blind_names)
    fields |= _ENVELOPE
    return {
        "$jsonSchema": {
            "title": _TITLE,
            "description": _DESCRIPTION,
            "bsonType": "object",
            "required": ["_id", *_ENVELOPE],
            "properties": {name: fields[name] for name in sorted(fields, key=lambda name: (name != "_id", name))},
            "additionalProperties": False,
        },
        "$expr": _LENGTHS,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Beside other validators.


def merged(existing: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Ours and theirs, of which both must hold. Theirs stays as it is; an earlier one of ours is replaced.

    ``existing``: the validator that is there, as ``listCollections`` gives it.
    """
    theirs = without(existing)
    return dict(ours) if theirs is None else {"$and": [theirs, dict(ours)]}


def without(existing: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Theirs alone, or None if nothing is left. To remove ours, give ``collMod`` this, or ``{}`` for None."""
    return _without(existing or {}) or None


def installed(existing: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> bool:
    """Whether exactly this guard holds already: alone, or as one of several that must hold."""
    if existing is None:
        return False
    here = all(existing.get(name) == part for name, part in ours.items())
    return here or any(installed(each, ours) for each in _conjuncts(existing))


def _without(clause: Mapping[str, Any]) -> dict[str, Any]:
    if not _holds_ours(clause):
        return dict(clause)
    rest = dict(clause)
    if _is_ours(rest):
        del rest["$jsonSchema"]
        if rest.get("$expr") == _LENGTHS or rest.keys() == {"$expr"}:  # alone it belongs to ours, of whatever version
            rest.pop("$expr", None)
    if any(map(_holds_ours, _conjuncts(rest))):
        rest["$and"] = [kept for each in rest["$and"] if (kept := _without(each)) or not _holds_ours(each)]
        if not rest["$and"]:
            del rest["$and"]
        elif len(rest["$and"]) == len(rest) == 1:  # as it was before `merged`
            return dict(rest["$and"][0])
    return rest


def _holds_ours(clause: Mapping[str, Any]) -> bool:
    return _is_ours(clause) or any(map(_holds_ours, _conjuncts(clause)))


def _is_ours(clause: Mapping[str, Any]) -> bool:
    schema = clause.get("$jsonSchema")
    return isinstance(schema, Mapping) and str(schema.get("title", "")).startswith(_MARK)


def _conjuncts(clause: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(clause.get("$and", ()))


# ---------------------------------------------------------------------------------------------------------------------
# The envelope: spec 2.

#: As `keys.is_kid`. ``$`` would let a line feed follow.
_KID: Final = {"bsonType": "string", "pattern": r"^[A-Za-z0-9_.-]{1,64}\z"}
_BINARY: Final = {"bsonType": "binData"}
_ENVELOPE: Final[dict[str, dict[str, Any]]] = {
    "data": _BINARY,
    "hmac": _BINARY,
    "iv": _BINARY,
    "kid": _KID,
    "v": {"bsonType": "int", "enum": [1]},
}


def _long(field: str, size: int) -> dict[str, Any]:
    """Asked of binary only: of anything else ``$binarySize`` is an error, in the place of a refusal."""
    is_binary = {"$eq": [{"$type": f"${field}"}, "binData"]}
    return {"$eq": [{"$cond": [is_binary, {"$binarySize": f"${field}"}, None]}, size]}


_LENGTHS: Final = {"$and": [_long("iv", IV_BYTES), _long("hmac", TAG_BYTES)]}


def _idx(names: tuple[str, ...]) -> dict[str, Any]:
    """A list where there is one: of kids, while index keys are changed, and of the values of a list."""
    kid = {**_KID, "bsonType": ["array", "string"], "items": _KID, "minItems": 1, "uniqueItems": True}
    value = {"bsonType": ["array", "binData"], "items": _BINARY}
    return {
        "bsonType": "object",
        "required": ["kid"],
        "properties": {"kid": kid, **dict.fromkeys(sorted(names), value)},
        "additionalProperties": False,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Fields in the clear: the BSON types that a projection can have.

_INTEGER: Final = frozenset({"int", "long"})  # which of the two, the driver decides by the value
#: type of the value → BSON types of its projection
_PROJECTED: Final[dict[type, frozenset[str]]] = {
    NoneType: frozenset({"null"}),
    bool: frozenset({"bool"}),
    int: _INTEGER,
    ByteSize: _INTEGER,
    timedelta: _INTEGER,
    float: frozenset({"double"}),
    Decimal: frozenset({"decimal"}),
    datetime: frozenset({"date"}),
    date: frozenset({"date"}),
    bytearray: frozenset({"binData"}),
    UUID: frozenset({"binData"}),
    ObjectId: frozenset({"objectId"}),
    **dict.fromkeys((str, time, Fraction, ZoneInfo, *ADDRESSES), frozenset({"string"})),
    **dict.fromkeys((list, set, frozenset, tuple, deque, NameEmail), frozenset({"array"})),
}
#: base classes, whose subclasses are projected alike
_FAMILIES: Final[tuple[tuple[tuple[type, ...], frozenset[str]], ...]] = (
    ((PurePath, AnyUrl, MongoDsn, NatsDsn, PostgresDsn), frozenset({"string"})),
    ((tuple,), frozenset({"array"})),  # named ones
)
#: kind in JSON → BSON types that are read back from it
_WRITTEN: Final[dict[Kind, frozenset[str]]] = {
    "null": frozenset({"null"}),
    "bool": frozenset({"bool"}),
    "int": _INTEGER,
    "float": frozenset({"double"}),
    "string": frozenset({"binData", "objectId", "string"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
}


def _property(types: frozenset[str]) -> dict[str, Any]:
    """Nothing is asked of a field whose types are not known: a document that is genuine must not be refused."""
    names = sorted(types)
    return {"bsonType": names[0] if len(names) == 1 else names} if names else {}


def _bson_types(node: Node) -> frozenset[str]:
    """All that the projection of a value can be; rather too many than too few. Empty if that is not known.

    A place that is declared ``Any`` lists no type, and so is not known.
    """
    each = [_types_of_class(cls, node) for cls in node.types]
    return frozenset().union(*each) if all(each) else frozenset()


def _types_of_class(cls: type, node: Node) -> frozenset[str]:
    if issubclass(cls, Enum):
        return _types_of_enum(cls, node)
    if cls is bytes:  # with a check it may be a Literal, whose bytes are projected as text
        return frozenset({"binData"}) if node.deep is None else frozenset({"binData", "string"})
    if cls in _PROJECTED:
        return _PROJECTED[cls]
    for bases, types in _FAMILIES:
        if issubclass(cls, bases):
            return types
    if issubclass(cls, dict):
        return _types_of_dict(node)
    if dataclasses.is_dataclass(cls) or (issubclass(cls, BaseModel) and not issubclass(cls, RootModel)):
        return _WRITTEN["object"]
    return _types_of_kinds(node)


def _types_of_enum(cls: type[Enum], node: Node) -> frozenset[str]:
    """By value or, where there is a check, perhaps by name: members with odd values, and members in a Literal."""
    by_value = _INTEGER if all(type(member.value) is int for member in cls) else frozenset({"string"})
    return by_value if node.deep is None else by_value | {"string"}


def _types_of_dict(node: Node) -> frozenset[str]:
    """An array of pairs where keys are not text. In a union that is tagged in JSON, the kind does not say which."""
    if "object" not in node.kinds:
        return _WRITTEN["array"]
    return _WRITTEN["object"] | _WRITTEN["array"] if node.exact or "array" in node.kinds else _WRITTEN["object"]


def _types_of_kinds(node: Node) -> frozenset[str]:
    """Of a class that says nothing, as a `RootModel`. What is not exact is read back from its projection, as its kinds of JSON."""
    return frozenset() if node.exact else frozenset[str]().union(*(_WRITTEN[kind] for kind in node.kinds))
