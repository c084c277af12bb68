"""What a server must be, and what it must have, before documents are kept there: `Repository.setup`, once for each deployment.

1. The collection is an ordinary one. A view, a time-series or a capped collection cannot be replaced in; one with a default
   collation decides for itself which ids are equal.
2. The server is MongoDB as far as we lean on it: a sealed document with every kind of BSON comes back byte for byte, and
   compare-and-set on its tag replaces it once. A server that only resembles MongoDB is found out here, and not by a customer.
3. The newest document is sealed under a key of this ring: two processes with two key files each would write what the other one
   cannot open, and find out late.
4. The indexes are there: those of ``Queryable(index=True)``, those of the blind indexes, and others that were asked for.
5. The guard is there, by which the server refuses plaintext from other clients (`guard`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, IndexModel, ReadPreference
from pymongo.collation import Collation
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from . import envelope, guard
from .bridge import settle
from .errors import ConfigurationError, EnvelopeError, QueryError, UnknownKeyError
from .keys import KeyRing
from .places import place
from .query import compile_sort
from .schema import Schema

__all__ = [
    "BYTE_BY_BYTE",
    "RESERVED_CONTEXTS",
    "Index",
    "indexes_of",
    "is_strict",
    "options_of",
    "set_up",
    "unfit",
    "wanted_indexes",
]

#: Contexts that no repository of a user has.
RESERVED_CONTEXTS: Final = "mongo_envelope/"
#: Of the probe: a document of the repository's own context would be genuine, and whoever sees it pass could put it there.
_PROBE_CONTEXT: Final = RESERVED_CONTEXTS + "probe"
BYTE_BY_BYTE: Final = Collation("simple")


@dataclass(frozen=True, slots=True)
class Index:
    """One index of MongoDB's that a collection shall have."""

    keys: tuple[tuple[str, int], ...]
    unique: bool = False

    @property
    def name(self) -> str:
        """As MongoDB names it by default."""
        return "_".join(f"{name}_{direction}" for name, direction in self.keys)

    @property
    def model(self) -> IndexModel:
        """For ``create_indexes``. A unique one is partial: values that are missing are not alike."""
        if not self.unique:
            return IndexModel(list(self.keys), collation=BYTE_BY_BYTE)
        return IndexModel(list(self.keys), collation=BYTE_BY_BYTE, unique=True, partialFilterExpression=self._with_a_value)

    @property
    def _with_a_value(self) -> dict[str, Any]:
        """Any binary: not the empty array that says that there is no value, under which all of these would be alike."""
        return {self.keys[0][0]: {"$gte": b""}}

    def is_served_by_one_of(self, there: Iterable[Mapping[str, Any]]) -> bool:
        """Whether one of the indexes that are there does what this one would do."""
        return any(map(self.is_served_by, there))

    def is_served_by(self, index: Mapping[str, Any]) -> bool:
        """Whether an index that is there, made by hand perhaps, does what this one would do."""
        keys, odd = list(index["key"]), {"partialFilterExpression", "sparse", "collation"}
        given = {name for name, value in index.items() if value}
        if self.unique:
            partial = index.get("partialFilterExpression") == self._with_a_value
            return keys == list(self.keys) and "unique" in given and partial and not given & (odd - {"partialFilterExpression"})
        if given & odd:
            return False
        if len(self.keys) == 1:  # it finds every document by its first field, in whichever direction
            return keys[0][0] == self.keys[0][0] and keys[0][1] in (1, -1)
        return keys[: len(self.keys)] == list(self.keys)


def wanted_indexes(schema: Schema[Any], more: Sequence[Any] = ()) -> list[Index]:
    """The indexes of a model, and ``more``: each a name or a list of names or of (name, direction) pairs, as for a sort.

    A name in ``more`` may be that of a field with a blind index, but only one in each, and none beside a list: MongoDB keeps no
    index on two arrays, which index values are while an index key is replaced. Raise `ConfigurationError`.
    """
    wanted = [Index(((name, ASCENDING),)) for name in schema.indexes]
    wanted += [Index(((each.stored, ASCENDING),), each.unique) for each in schema.blind]
    if isinstance(more, str | Mapping) or not isinstance(more, Sequence):
        raise ConfigurationError('indexes= takes several indexes: indexes=[["tenant", "created_at"]]')
    for each in more:
        try:
            wanted.append(Index(tuple(_keys(schema, each))))
        except QueryError as error:
            problem = str(error)
        else:
            continue
        raise ConfigurationError(f"indexes=: {problem}")
    return list(dict.fromkeys(wanted))


def _keys(schema: Schema[Any], given: Any) -> Iterator[tuple[str, int]]:
    """The stored names and directions of one index."""
    if not isinstance(given, str | Mapping | Sequence) or not given:
        raise QueryError("an index is on a name, or on a list of names or of (name, direction) pairs")
    arrays = []
    for pair in [given] if isinstance(given, str) else given.items() if isinstance(given, Mapping) else given:
        name, direction = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (pair, ASCENDING)
        found = schema.blind_on(name)
        if type(direction) is not int or direction not in (1, -1):
            raise QueryError(f"{str(name)[:64]}: a direction is 1 or -1")
        if found:
            yield found[0].stored, direction
        else:
            yield from compile_sort(schema, [(name, direction)])
        where = None if found else place(schema, name)
        if found or (where is not None and (where.node is None or where.node.item is not None)):
            arrays.append(str(name))
    if len(arrays) > 1 and any(map(schema.blind_on, arrays)):
        raise QueryError(
            f"{' and '.join(arrays)} in one index: index values are arrays while an index key is replaced, and MongoDB keeps no "
            "index on two arrays. BlindIndex(within=…) makes one value of several fields"
        )


async def set_up(
    collection: Any,
    schema: Schema[Any],
    *,
    keys: KeyRing,
    context: str,
    indexes: Sequence[Any],
    guarded: bool,
    dry_run: bool,
    session: Any,
) -> list[str]:
    """Check the collection and the server, make what is missing, and say what that was. Raise `ConfigurationError`.

    ``collection``: of either driver, giving `RawBSONDocument`, read from the primary. May be repeated, and run while the service
    works.
    """
    wanted = wanted_indexes(schema, indexes)
    options = await options_of(collection, session)
    _check_kind(collection.name, options)
    validator = guard.merged((options or {}).get("validator"), guard.validator(schema)) if guarded else None
    watched = guarded and _is_guarded(collection.name, options, schema)
    if not dry_run:
        await _check_server(collection, keys, validator)
    await _check_keys(collection, keys, context, session, searched=bool(schema.blind))
    made = []
    if guarded and not watched:
        made.append("guard")
        if not dry_run:
            await _put_up(collection, options, schema, session)
    there = [] if options is None and dry_run else await indexes_of(collection, session)
    missing = [each for each in wanted if not each.is_served_by_one_of(there)]
    if not dry_run and missing:
        await _make(collection, missing, schema, session)
    return [each.name for each in missing] + made


async def options_of(collection: Any, session: Any) -> dict[str, Any] | None:
    """What the server says of the collection: its options, and its ``type`` among them; None if it is not there yet."""
    command = {"listCollections": 1, "filter": {"name": collection.name}}
    answer = await settle(collection.database.command(command, codec_options=envelope.CODEC_OPTIONS, session=session))
    match answer:  # in which the words are the server's: none of them is repeated
        case {"cursor": {"firstBatch": []}}:
            return None
        case {"cursor": {"firstBatch": [{"type": str(kind), "options": dict(options)}]}}:
            return options | {"type": kind}
    raise ConfigurationError(f"{collection.name}: the server does not say what kind of collection it is")


def _check_kind(name: str, options: Mapping[str, Any] | None) -> None:
    if (problem := unfit(name, options)) is not None:
        raise ConfigurationError(problem)


def unfit(name: str, options: Mapping[str, Any] | None) -> str | None:
    """Why sealed documents cannot be kept in such a collection. One that is not there yet will be an ordinary one."""
    if options is None:
        return None
    kind = options["type"]
    if kind != "collection":
        what = f"a {kind}" if kind in ("view", "timeseries") else "no ordinary collection"
        return f"{name} is {what}: documents cannot be replaced in it. Name the collection behind it"
    if options.get("capped"):
        return f"{name} is a capped collection: MongoDB drops the oldest documents of it, and lets none grow"
    if "collation" in options:
        return (
            f"{name} has a default collation, by which its ids are compared: make the collection without one, and give "
            "find(…, collation=…) where it is wanted"
        )
    return None


# ---------------------------------------------------------------------------------------------------------------------
# The guard.


def _is_guarded(name: str, options: Mapping[str, Any] | None, schema: Schema[Any]) -> bool:
    """Whether the guard is up.

    Raise `ConfigurationError` where a validator of theirs is no more than a warning: it would become a refusal.
    """
    options = options or {}
    existing = options.get("validator")
    existing = existing if isinstance(existing, Mapping) else {}
    strict = is_strict(options)
    if not strict and guard.without(existing) is not None:
        raise ConfigurationError(
            f"{name} has a validator of yours that does not refuse all (its validationLevel is not strict, or its validationAction "
            "not error). With the guard it would: set them with collMod, or setup(guard=False)"
        )
    return strict and guard.installed(existing, guard.validator(schema))


def is_strict(options: Mapping[str, Any]) -> bool:
    """Whether the validator of a collection refuses all that does not fit."""
    return (options.get("validationLevel", "strict"), options.get("validationAction", "error")) == ("strict", "error")


async def _put_up(collection: Any, options: Mapping[str, Any] | None, schema: Schema[Any], session: Any) -> None:
    """Once more if somebody has made the collection in between, whose validator is not to be lost."""
    merged = guard.merged((options or {}).get("validator"), guard.validator(schema))
    verb = "create" if options is None else "collMod"
    command = {verb: collection.name, "validator": merged, "validationLevel": "strict", "validationAction": "error"}
    try:
        await settle(collection.database.command(command, session=session))
    except OperationFailure as error:  # whose text quotes the validator
        problem = error.code
    else:
        return
    if problem == _EXISTS and options is None:
        there = await options_of(collection, session)
        _check_kind(collection.name, there)
        if not _is_guarded(collection.name, there, schema):
            await _put_up(collection, there or {}, schema, session)
        return
    raise ConfigurationError(
        f"{collection.name}: the server does not take the guard (code {problem if isinstance(problem, int) else None}). It takes "
        "the privilege collMod, as in the role dbAdmin; without the guard: setup(guard=False)"
    )


#: NamespaceExists
_EXISTS: Final = 48


# ---------------------------------------------------------------------------------------------------------------------
# The server.

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


async def _check_server(collection: Any, keys: KeyRing, validator: Any) -> None:
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
        problem = await _probe(probe, first, second) or await _probe_guard(probe, validator)
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


async def _probe_guard(probe: Any, validator: Any) -> str | None:
    """Whether the server refuses what the guard refuses."""
    if validator is None:
        return None
    try:
        await settle(probe.database.command({"collMod": probe.name, "validator": validator}))
        await settle(probe.insert_one({"_id": ObjectId("2" * 24), "plaintext": True}))
    except OperationFailure as error:
        return (
            None if error.code != _BAD_COMMAND else "it does not know the validators of the guard. setup(guard=False) does without"
        )
    return "it takes what a validator refuses. setup(guard=False) does without the guard"


#: CommandNotSupported, which servers say that only resemble MongoDB. A missing privilege is told of when the guard is put up.
_BAD_COMMAND: Final = 115


#: So many documents, the newest ones, are looked at: one alone may be somebody's who wants to stop us.
_LOOKED_AT: Final = 10


async def _check_keys(collection: Any, keys: KeyRing, context: str, session: Any, *, searched: bool) -> None:
    """What else may be wrong with these documents is for those who read them, and for `doctor`."""
    newest = collection.find({}, sort=[("$natural", -1)], limit=_LOOKED_AT, batch_size=_LOOKED_AT, session=session)
    unknown = False
    while (document := await _next(newest)) is not None:
        try:
            opened = envelope.verify(bytes(document.raw), keys=keys, context=context)
        except UnknownKeyError:
            unknown = True
        except EnvelopeError:
            pass
        else:
            if searched:
                _check_index_key(collection.name, opened, keys)
            return
    if unknown:
        raise ConfigurationError(
            f"the newest documents of {collection.name} are sealed under keys that are not in this ring: this process has another "
            "key file than the one that wrote them, or somebody else put them there"
        )


def _check_index_key(name: str, document: Mapping[str, Any], keys: KeyRing) -> None:
    kids = document.get("idx", {}).get("kid", keys.search_key)
    if keys.search_key is not None and keys.search_key not in ([kids] if isinstance(kids, str) else kids):
        raise ConfigurationError(
            f"the newest document of {name} has no index values under {keys.search_key}, the index key that this ring searches by: "
            "it would not be found. reindex() with a ring that still searches by the old one comes first; docs/querying.md has the "
            "order"
        )


async def _next(cursor: Any) -> RawBSONDocument | None:
    try:
        document = await settle(cursor.next())
    except (StopIteration, StopAsyncIteration):
        return None
    return document if isinstance(document, RawBSONDocument) else None


# ---------------------------------------------------------------------------------------------------------------------
# Indexes.


async def indexes_of(collection: Any, session: Any) -> list[dict[str, Any]]:
    """The indexes of the collection, as MongoDB describes them."""
    return list((await settle(collection.index_information(session=session))).values())


async def _make(collection: Any, missing: Sequence[Index], schema: Schema[Any], session: Any) -> None:
    try:
        await settle(collection.create_indexes([each.model for each in missing], session=session))
    except OperationFailure as error:
        if error.code not in _INDEX_PROBLEMS:
            raise
        error_code = error.code  # the server's own words quote values
    else:
        return
    blamed = [each for each in missing if each.unique] if error_code == _DUPLICATE else missing
    names = " or ".join(_said(schema, each) for each in blamed)
    raise ConfigurationError(f"{collection.name}: {_INDEX_PROBLEMS[error_code].format(names)}")


def _said(schema: Schema[Any], index: Index) -> str:
    """As the model names what it is on."""
    blind = {each.stored: " and ".join(part.field for part in each.parts) for each in schema.blind}
    return f"{' and '.join(blind.get(name, name) for name, _ in index.keys)} ({index.name})"


_STANDS: Final = (
    "an index that does other than is wanted (sparse, partial, of a collation, not unique), made by hand or by an earlier version "
    "of the model, stands in the way of one on {}. Drop it, and run setup() again"
)
_DUPLICATE: Final = 11000
#: IndexOptionsConflict, IndexKeySpecsConflict, DuplicateKey
_INDEX_PROBLEMS: Final = {
    85: _STANDS,
    86: _STANDS,
    _DUPLICATE: "documents that are there have the same value, and an index on {} shall be unique. Find and change them first",
}
