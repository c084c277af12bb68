"""What a server must be, and what it must have, before documents are kept there: `Repository.setup`, once for each deployment.

1. The collection is an ordinary one. A view, a time-series or a capped collection cannot be replaced in; one with a default
   collation decides for itself which ids are equal.
2. The server is MongoDB as far as we lean on it: a sealed document with every kind of BSON comes back byte for byte, and
   compare-and-set on its tag replaces it once. A server that only resembles MongoDB is found out here, and not by a customer.
3. The newest document is sealed under a key of this ring: two processes with two key files each would write what the other one
   cannot open, and find out late.
4. The indexes of ``Queryable(index=True)`` are there.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, IndexModel, ReadPreference
from pymongo.collation import Collation
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from . import envelope
from .bridge import settle
from .errors import ConfigurationError, EnvelopeError, UnknownKeyError
from .keys import KeyRing

__all__ = ["BYTE_BY_BYTE", "RESERVED_CONTEXTS", "set_up"]

#: Contexts that no repository of a user has.
RESERVED_CONTEXTS: Final = "mongo_envelope/"
#: Of the probe: a document of the repository's own context would be genuine, and whoever sees it pass could put it there.
_PROBE_CONTEXT: Final = RESERVED_CONTEXTS + "probe"
BYTE_BY_BYTE: Final = Collation("simple")


async def set_up(collection: Any, indexes: list[str], *, keys: KeyRing, context: str, session: Any) -> list[str]:
    """Check the collection and the server, make the indexes that are missing, and give their names. Raise `ConfigurationError`.

    ``collection``: of either driver, giving `RawBSONDocument`, read from the primary. May be repeated, and run while the service
    works.
    """
    await _check_kind(collection, session)
    await _check_server(collection, keys)
    await _check_keys(collection, keys, context, session)
    return await _make_indexes(collection, indexes, session)


async def _check_kind(collection: Any, session: Any) -> None:
    """A collection that is not there yet will be an ordinary one."""
    command = {"listCollections": 1, "filter": {"name": collection.name}}
    answer = await settle(collection.database.command(command, codec_options=envelope.CODEC_OPTIONS, session=session))
    name = collection.name
    match answer:  # in which the words are the server's: none of them is repeated
        case {"cursor": {"firstBatch": []}}:
            return
        case {"cursor": {"firstBatch": [{"type": str(kind), "options": dict(options)}]}}:
            pass
        case _:
            raise ConfigurationError(f"{name}: the server does not say what kind of collection it is")
    if kind != "collection":
        what = f"a {kind}" if kind in ("view", "timeseries") else "no ordinary collection"
        raise ConfigurationError(f"{name} is {what}: documents cannot be replaced in it. Name the collection behind it")
    if options.get("capped"):
        raise ConfigurationError(f"{name} is a capped collection: MongoDB drops the oldest documents of it, and lets none grow")
    if "collation" in options:
        raise ConfigurationError(
            f"{name} has a default collation, by which its ids are compared: make the collection without one, and give "
            "find(…, collation=…) where it is wanted"
        )


#: One value of every kind of BSON that metadata can hold, those among them that are easily normalised.
_EVERY_KIND: Final[dict[str, Any]] = {
    "array": [1, Int64(1), 1.0, [], {}],
    "binary": Binary(b"\x00\xff", 5),
    "bool": True,
    "bytes": b"\x00",
    "date": datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "decimal": Decimal128("1.500"),
    "document": {"z": None, "a": {"": 1}},
    "double": -0.0,
    "int": 1,
    "long": Int64(1),
    "nan": float("nan"),
    "null": None,
    "object_id": ObjectId("0" * 24),
    "regex": Regex("^a", "i"),
    "text": "\u00e9 e\u0301 \U0001f600",
    "uuid": UUID(int=1),
}


async def _check_server(collection: Any, keys: KeyRing) -> None:
    """In a collection of its own, which is dropped: nobody who reads the real one meets the probe.

    It is read as it was written: a secondary, or the majority, may not have it yet.
    """
    probe = collection.database.get_collection(
        f"mongo_envelope.probe.{secrets.token_hex(8)}",
        codec_options=collection.codec_options,
        read_preference=ReadPreference.PRIMARY,
        write_concern=collection.write_concern,
        read_concern=ReadConcern(),
    )
    first, second = (
        envelope.seal({"_id": ObjectId("1" * 24), **_EVERY_KIND}, b"{}", keys=keys, context=_PROBE_CONTEXT) for _ in range(2)
    )
    try:
        problem = await _probe(probe, first, second)
    finally:
        await settle(probe.drop())
    if problem is not None:
        raise ConfigurationError(f"this server is not the MongoDB that sealed documents need: {problem}")


async def _probe(probe: Any, first: bytes, second: bytes) -> str | None:
    """What the server does otherwise than MongoDB; None if nothing."""
    await settle(probe.insert_one(RawBSONDocument(first)))
    try:
        await settle(probe.insert_one(RawBSONDocument(second)))
    except DuplicateKeyError:
        pass
    else:
        return "it takes a second document with the same _id"
    stored = await settle(probe.find_one({"_id": ObjectId("1" * 24)}))
    if not isinstance(stored, RawBSONDocument) or bytes(stored.raw) != first:
        return "a document does not come back byte for byte as it was stored"
    where, document = {"_id": ObjectId("1" * 24), "hmac": {"$in": [envelope.tag_of(first)]}}, RawBSONDocument(second)
    matched = [(await settle(probe.replace_one(where, document))).matched_count for _ in range(2)]
    if matched != [1, 0]:
        return "replacing exactly the document that has a given tag does not work"
    return None


async def _check_keys(collection: Any, keys: KeyRing, context: str, session: Any) -> None:
    """What else may be wrong with that document is for those who read it."""
    newest = await settle(collection.find_one({}, sort=[("$natural", -1)], session=session))
    if not isinstance(newest, RawBSONDocument):
        return
    known = True
    try:
        envelope.open(bytes(newest.raw), keys=keys, context=context)
    except UnknownKeyError:
        known = False
    except EnvelopeError:
        pass
    if not known:
        raise ConfigurationError(
            f"the newest document of {collection.name} is sealed under a key that is not in this ring: this process has another "
            "key file than the one that wrote it"
        )


async def _make_indexes(collection: Any, names: list[str], session: Any) -> list[str]:
    there = [index for index in (await settle(collection.index_information(session=session))).values() if _serves(index)]
    covered = {index["key"][0][0] for index in there}
    missing = [IndexModel([(name, ASCENDING)], collation=BYTE_BY_BYTE) for name in names if name not in covered]
    try:
        return list(await settle(collection.create_indexes(missing, session=session))) if missing else []
    except OperationFailure as error:
        if error.code not in _INDEX_CONFLICTS:
            raise
    raise ConfigurationError(
        f"{collection.name}: an index that was made by hand, and that does not find every document (sparse, partial, or of a "
        f"collation), stands in the way of one on {' or '.join(name for name in names if name not in covered)}. Drop it, or "
        "make it anew under another name"
    )


#: IndexOptionsConflict, IndexKeySpecsConflict
_INDEX_CONFLICTS: Final = frozenset({85, 86})


def _serves(index: dict[str, Any]) -> bool:
    """Whether an index, made by hand perhaps, finds every document by its first field."""
    return index["key"][0][1] in (1, -1) and not {"partialFilterExpression", "sparse", "collation"} & {
        name for name, value in index.items() if value
    }
