"""Change streams: what becomes of the documents of a repository, as it happens, verified and as models.

A repository inserts and replaces whole documents, and the event of an insert or a replacement carries the stored bytes. So each is
verified as `flows` verifies what was found, must be of the ``_id`` that the event names, and answers the filter. The other events
carry no document: a deletion is the server's word. An event of update operators, which no repository sends, is an error.

The stream itself is pymongo's, and so is resuming it. An event counts as given once it was given, left out or raised as wrong; one
that could not be opened for another reason, such as a key service that does not answer, stays the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Self, TypeVar, get_args

import bson
from bson import Timestamp
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from . import envelope
from .answer import Asked, AskedValue, same
from .bridge import drive, settle
from .errors import (
    ConfigurationError,
    EnvelopeError,
    IntegrityError,
    MalformedEnvelopeError,
    QueryError,
    UnknownKeyError,
    shortened,
)
from .flows import END, Filter, next_of, raw_of
from .places import from_stored
from .provision import BYTE_BY_BYTE
from .reading import OnInvalid, Reading, check_on_invalid, decoded
from .search import Sift

__all__ = ["AsyncChangeStream", "BeforeChange", "Change", "ChangeStream", "Operation", "Watched", "begin"]

Model = TypeVar("Model", bound=BaseModel)
#: MongoDB's names of the events. After "invalidate" there are no others.
Operation = Literal["insert", "replace", "delete", "drop", "rename", "dropDatabase", "invalidate"]
BeforeChange = Literal["whenAvailable", "required"]
_OPERATIONS: Final = get_args(Operation)
#: Those whose event carries the document.
_WRITTEN: Final = ("insert", "replace")
#: "The $changeStream stage is only supported on replica sets".
_STANDALONE: Final = 40573


@dataclass(frozen=True, slots=True)
class Change(Generic[Model]):
    """One event. Only ``model`` and ``before`` are verified, and the ``id`` of an event that has one of them."""

    operation: Operation
    #: Of the document, in the type of the model's field; None where the event is about the whole collection.
    id: Any
    #: The document as it was written; None but for "insert" and "replace". It can be saved as if it had been loaded.
    model: Model | None
    #: The document as it was before, if that was asked for and the server has kept it.
    before: Model | None
    #: When, by the cluster's clock.
    cluster_time: Timestamp | None
    #: For ``watch(resume_after=…)``: the stream goes on after this event.
    resume_token: dict[str, Any]

    def __repr__(self) -> str:
        """Without the documents, and with the ``_id`` as it stands in errors."""
        return f"Change(operation={self.operation!r}, id={shortened(self.id)}, cluster_time={self.cluster_time!r})"


@dataclass(slots=True)
class Watched:
    """A stream of the driver, and what its documents have to be."""

    stream: Any
    asked: Asked | AskedValue | None
    sift: Sift | None
    on_invalid: OnInvalid
    event: Any = None  #: one that was taken from the stream, and neither given nor refused yet
    token: Any = None  #: where a new stream would have to begin to have this event in it
    #: Of a filter on blind indexes, where the key that searches go by may change: begin again, at a token; and the key.
    again: Callable[[Any], Awaitable[Watched]] | None = None
    search_key: str | None = None

    def passed(self) -> None:
        """The event has been given, left out, or raised as wrong."""
        self.event, self.token = None, self.event["_id"]


async def begin(
    flows: Reading[Any], where: Filter, *, on_invalid: OnInvalid, before: BeforeChange | None, session: Any, **options: Any
) -> Watched:
    """Open the stream. What is written from now on is in it."""
    flows.need("open", what="watch")
    check_on_invalid(on_invalid)
    if before not in (None, *get_args(BeforeChange)):
        raise QueryError('full_document_before_change is "whenAvailable" or "required"')
    starts = {
        name: options[name] for name in ("resume_after", "start_after", "start_at_operation_time") if options[name] is not None
    }
    if len(starts) > 1:
        raise QueryError(f"{' and '.join(starts)}: a stream begins in one place")
    if any(not isinstance(start, Timestamp if name == "start_at_operation_time" else Mapping) for name, start in starts.items()):
        raise QueryError("resume_after and start_after take a resume_token, start_at_operation_time takes a bson.Timestamp")
    await flows.keys_at_hand()
    if flows.hooks.before_load:
        flows._compiled(where, None)
        await flows.before_load(where)
    return await _open(flows, where, on_invalid, full_document_before_change=before, session=session, **options)


async def _open(
    flows: Reading[Any], where: Filter, on_invalid: OnInvalid, *, before: Mapping[str, Any] | None = None, **options: Any
) -> Watched:
    """The stream, by the search key of the moment. ``before``: what an earlier one has asked, which finds the same documents."""
    compiled, search_key = flows._compiled(where, None), flows.codec.keys.search_key
    # The event of a resume token has to pass the filter of the new stream, or the server does not find it.
    server = compiled.server if before is None else {"$or": [before, compiled.server]}
    # A change stream reads what the majority has, and MongoDB refuses another read concern.
    collection = flows.collection.with_options(read_concern=ReadConcern("majority"))
    failed: OperationFailure | None = None
    try:
        stream = await settle(collection.watch(_pipeline(server, _of_id(compiled.server)), collation=BYTE_BY_BYTE, **options))
    except OperationFailure as error:
        if error.code != _STANDALONE:
            raise
        failed = error
    else:
        asked = Asked(server) if server else None
        watched = Watched(stream, asked, compiled.sift, on_invalid, token=stream.resume_token)
        if compiled.blind and flows.keys_may_come:
            starts = {"resume_after": None, "start_after": None, "start_at_operation_time": None}
            options |= starts
            watched.again = lambda token: _open(
                flows, where, on_invalid, before=compiled.server, **(options | {"start_after": token})
            )
            watched.search_key = search_key
        return watched
    raise ConfigurationError("change streams need a replica set or a sharded cluster, and this is a single mongod") from failed


# ---------------------------------------------------------------------------------------------------------------------
# Filters.


def _pipeline(server: Mapping[str, Any], ids: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of events with a document, those that the filter finds; of the others all, or those of the ids that it asks for."""
    if not server:
        return []
    written: dict[str, Any] = {"operationType": {"$in": [*_WRITTEN]}}
    others: dict[str, Any] = {"operationType": {"$nin": [*_WRITTEN]}}
    if ids:
        others["$or"] = [{"documentKey": {"$exists": False}}, {"$and": ids}]
    return [{"$match": {"$or": [{"$and": [written, _prefixed(server)]}, others]}}]


def _prefixed(given: Mapping[str, Any]) -> dict[str, Any]:
    """A filter for documents, for those in events."""
    compiled: dict[str, Any] = {}
    for name, condition in given.items():
        if name in ("$and", "$or", "$nor"):
            compiled[name] = [_prefixed(each) for each in condition]
        elif name.startswith("$"):
            raise QueryError(f"watch: {name} is not served in the filter of a change stream. Look at the models in Python")
        else:
            compiled[f"fullDocument.{name}"] = condition
    return compiled


def _of_id(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a filter says about the id alone, whatever else it says."""
    found = [{"documentKey._id": given["_id"]}] if "_id" in given else []
    return found + [condition for each in given.get("$and", ()) for condition in _of_id(each)]


# ---------------------------------------------------------------------------------------------------------------------
# Events.


async def _next(flows: Reading[Model], watched: Watched, *, wait: bool) -> Any:
    """The next change; `END` if there is none any more, or, without waiting, none yet."""
    while True:
        if watched.event is None:
            event = await _event(flows, watched, wait=wait)
            if event is END or event is None:
                watched.token = watched.stream.resume_token  # which goes on while nothing comes
                return END
            watched.event = event
        await flows.meet(_documents_of(watched.event))
        try:
            change = _change(flows, watched, watched.event)
        except (EnvelopeError, UnknownKeyError) as error:  # never a KMSError: the event waits until the service answers
            invalid = error
        else:
            if change is not None:
                await _tell(flows, change)
            watched.passed()
            if change is not None:
                return change
            continue
        await flows.integrity_failure(invalid)
        if watched.on_invalid == "raise":
            watched.passed()
            raise invalid
        if callable(watched.on_invalid):
            await flows._answer_of(watched.on_invalid(invalid))
        watched.passed()


async def _event(flows: Reading[Any], watched: Watched, *, wait: bool) -> Any:
    """The next event of the driver; `END` or None if there is none.

    What is written when all have changed to another search key has no value under the old one any more: then the filter has to ask
    for the new one. Until then documents have both.
    """
    if watched.again is None:
        return await (next_of(watched.stream) if wait else settle(watched.stream.try_next()))
    while watched.again is not None and watched.stream.alive:
        if flows.keys_due:
            await flows.keys_at_hand()
        if flows.codec.keys.search_key != watched.search_key:
            anew, old = await watched.again(watched.stream.resume_token), watched.stream
            watched.stream, watched.asked, watched.sift = anew.stream, anew.asked, anew.sift
            watched.search_key, watched.again = anew.search_key, anew.again
            await settle(old.close())
        event = await settle(watched.stream.try_next())
        if event is not None or not wait:
            return event
    return END


async def _tell(flows: Reading[Any], change: Change[Any]) -> None:
    for model in (change.before, change.model) if flows.hooks.after_load else ():
        if model is not None:
            await flows.after_load(model)


def _documents_of(event: Any) -> list[bytes]:
    """The sealed documents in an event, if it is one."""
    try:
        return [bytes(event[name].raw) for name in _DOCUMENTS if isinstance(event.get(name), RawBSONDocument)]
    except (BSONError, AttributeError):
        return []


def _change(flows: Reading[Model], watched: Watched, event: Any) -> Change[Model] | None:
    """What an event says, verified; None if its document is not one of those that were meant."""
    raw_of(event)
    known: dict[str, Any] = {}
    identity: Any = None
    try:
        known = {name: event.get(name) for name in ("operationType", "clusterTime", "documentKey", *_DOCUMENTS)}
        known["_id"] = _plain(event["_id"])
        if known["documentKey"] is not None:
            identity = bson.decode(raw_of(known["documentKey"]), envelope.CODEC_OPTIONS).get("_id")
    except (BSONError, EnvelopeError):
        known.clear()
    operation: Any = known.get("operationType")
    if operation == "update":
        raise IntegrityError(
            "the document was changed by update operators, which no repository sends: somebody has written past it, and the event "
            "does not carry the document"
        ).about(document_id=identity, collection=flows.name)
    if operation not in _OPERATIONS:
        raise MalformedEnvelopeError("the server answered with something that is no event of a collection").about(
            collection=flows.name
        )
    model, before = None, None
    if known["fullDocumentBeforeChange"] is not None:
        before = _opened(flows, known["fullDocumentBeforeChange"], identity, None)
    if operation in _WRITTEN:
        document = known["fullDocument"]
        model = _opened(flows, document, identity, watched.asked)
        if watched.sift is not None and not watched.sift(decoded(raw_of(document)), model.__dict__):
            return None
    verified, name = before if model is None else model, flows.schema.identity.name
    if verified is not None:
        identity = getattr(verified, name)
    elif identity is not None:
        identity = from_stored(flows.schema, name, identity)
    time = known["clusterTime"] if isinstance(known["clusterTime"], Timestamp) else None
    return Change(operation, identity, model, before, time, known["_id"])


_DOCUMENTS: Final = ("fullDocument", "fullDocumentBeforeChange")


def _opened(flows: Reading[Model], document: Any, identity: Any, asked: Asked | AskedValue | None) -> Model:
    """One of the documents of an event, which must be the one that the event is about."""
    try:
        found, model = flows.open(raw_of(document), asked)
    except MalformedEnvelopeError as error:
        error.about(document_id=identity, collection=flows.name)
        raise
    if not same(found, identity):
        raise IntegrityError("the server answered with another document than the one that the event is about").about(
            document_id=found, collection=flows.name
        )
    return model


def _plain(token: Any) -> Any:
    """A resume token as a dict, to be kept wherever one likes."""
    return bson.decode(token.raw) if isinstance(token, RawBSONDocument) else token


# ---------------------------------------------------------------------------------------------------------------------
# The two kinds of stream.


class _ChangeStream(Generic[Model]):
    """What the two kinds have in common. Of one thread or task, like pymongo's."""

    def __init__(self, flows: Reading[Model], watched: Watched) -> None:
        """For the repository alone."""
        self._flows = flows
        self._watched = watched

    @property
    def resume_token(self) -> dict[str, Any] | None:
        """For ``watch(resume_after=…)``: a new stream goes on after what this one has given. A dict of text, to be kept anywhere.

        What was read and not yet given is not covered by it; an event that was left out or raised as wrong is.
        """
        watched = self._watched
        return _plain(watched.stream.resume_token if watched.event is None else watched.token)  # type: ignore[no-any-return]  # a dict

    @property
    def alive(self) -> bool:
        """Whether more can come: False once it is closed, or after "invalidate"."""
        return self._watched.event is not None or bool(self._watched.stream.alive)


class ChangeStream(_ChangeStream[Model]):
    """What `Repository.watch` gives. An event that cannot be verified raises at its turn; ``next()`` goes on after it."""

    def __iter__(self) -> Iterator[Change[Model]]:
        return self

    def __next__(self) -> Change[Model]:
        """The next change, waited for. Raise `EnvelopeError` or `UnknownKeyError`, with the ``_id``, for one that does not open."""
        change = drive(_next(self._flows, self._watched, wait=True))
        if change is END:
            raise StopIteration
        return change  # type: ignore[no-any-return]  # END is the only other thing

    def next(self) -> Change[Model]:
        """As ``next(stream)``."""
        return self.__next__()

    def try_next(self) -> Change[Model] | None:
        """The next change, or None if none has come after asking the server once, for at most ``max_await_time_ms``."""
        change = drive(_next(self._flows, self._watched, wait=False))
        return None if change is END else change

    def close(self) -> None:
        """Free the stream on the server. It can be opened again with its ``resume_token``."""
        self._watched.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChangeStream(_ChangeStream[Model]):
    """What `AsyncRepository.watch` gives. An event that cannot be verified raises at its turn; ``anext()`` goes on after it."""

    def __aiter__(self) -> AsyncIterator[Change[Model]]:
        return self

    async def __anext__(self) -> Change[Model]:
        """The next change, waited for. Raise `EnvelopeError` or `UnknownKeyError`, with the ``_id``, for one that does not open."""
        change = await _next(self._flows, self._watched, wait=True)
        if change is END:
            raise StopAsyncIteration
        return change  # type: ignore[no-any-return]  # END is the only other thing

    async def next(self) -> Change[Model]:
        """As ``anext(stream)``."""
        return await self.__anext__()

    async def try_next(self) -> Change[Model] | None:
        """The next change, or None if none has come after asking the server once, for at most ``max_await_time_ms``."""
        change = await _next(self._flows, self._watched, wait=False)
        return None if change is END else change

    async def close(self) -> None:
        """Free the stream on the server. It can be opened again with its ``resume_token``."""
        await self._watched.stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
