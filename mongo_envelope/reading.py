"""The flows that read: find, load, count. A server is not trusted to answer the question that was asked.

What a filter says about equality is checked again on the verified document (`answer`); where the server is asked for more than is
meant, as for a truncated or bucketed index, what it finds is sifted here after decryption (`search`), so that neither ``limit`` nor
``count`` meets what was not meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Literal, TypeVar

import bson
from pydantic import BaseModel

from . import envelope
from .answer import Asked, AskedValue, comparable, distinct_values
from .bridge import settle
from .codec import Metadata
from .errors import DocumentNotFoundError, EnvelopeError, IntegrityError, MalformedEnvelopeError, QueryError, UnknownKeyError
from .flows import END, Filter, Flows, SortKey, batches, next_batch, next_of, raw_of
from .pipeline import compile_pipeline
from .places import from_stored, identity_value, stored_name
from .provision import BYTE_BY_BYTE
from .query import compile_search, compile_sort
from .revision import Content, remember
from .schema import plain
from .search import Blind, Compiled, Sift

__all__ = ["AFTER_DECRYPTION", "WAIT", "Found", "Hint", "OnInvalid", "Reading", "check_on_invalid", "checked_count", "decoded"]

Model = TypeVar("Model", bound=BaseModel)
#: An index: its name, or what it is on, like a sort.
Hint = str | Sequence[tuple[str, int]] | Mapping[str, int]
OnInvalid = Literal["raise", "skip"] | Callable[[EnvelopeError | UnknownKeyError], Any]

#: What `at_hand` gives if something has to be waited for.
WAIT: Final = object()
#: `Found.question`, once the hooks have been told of it, or if they are not to be.
_TOLD: Final = object()
#: Seconds after which it is asked again whether keys are due, between the documents of a batch.
_LOOK: Final = 0.01
#: So many ids go into one query of `load_many`.
_IDS: Final = 1000


@dataclass(slots=True)
class Found:
    """A cursor of the driver, what its documents have to be, and those that have come."""

    cursor: Any
    asked: Asked | AskedValue | None
    on_invalid: OnInvalid
    sift: Sift | None = None
    metadata: bool = False
    pipeline: bool = False  #: of `aggregate`: the driver's cursor cannot sort, skip and limit
    plain: bool = False  #: dicts of a pipeline's own, which pass as they are
    sized: bool = False  #: whether the caller has said how many documents a batch has
    ahead: bool = False  #: whether the next documents may be waited for while these are opened
    question: Any = _TOLD  #: what the hooks are still to be told before the server is asked
    tells: bool = False  #: whether the hooks are told of each model that is handed out
    # Of what is sifted, the driver's cursor must not skip and limit:
    skip: int = 0
    limit: int = 0  #: none if 0
    offset: int = 0  #: the first that is asked for, whoever leaves out those before it
    given: int = 0
    waiting: Iterator[Any] = field(default_factory=lambda: iter(()))  #: what has come, and not been opened yet
    untold: Any = None  #: what functions of the user's are still to be told: an error, or a model
    opener: Callable[[bytes], Any] | None = None  #: how each document is opened, if that is all that there is to do
    codec: Any = None  #: the one that the opener is of
    #: Of a filter on blind indexes, until the server is asked: compile it, and what was compiled.
    compile: Callable[[], Compiled] | None = None
    server: dict[str, Any] = field(default_factory=dict)
    come: list[Any] = field(default_factory=list)  #: what the server has sent, and whose keys are not at hand yet
    left: list[Any] = field(default_factory=list)  #: what was waiting when the keys became due
    look: float = 0.0  #: when it is asked again whether they are

    @property
    def is_asked(self) -> bool:
        """Whether the server may have been asked: the hooks have been told of the question."""
        return self.question is _TOLD

    def again(self, identity: Any) -> None:
        """It is one document that is asked for: let the hooks be told so."""
        if self.question is not _TOLD:
            self.question = identity


class Reading(Flows[Model]):
    """The flows that read."""

    async def load_raw(self, identity: Any, *, session: Any) -> dict[str, Any]:
        """One document by its id, verified and decrypted, not validated."""
        self.need("open", what="load_raw")
        asked, raw = await self._find_by_id(self.collection, identity, session)
        found, tag, values = await self._telling(self._raw_as, raw, asked)
        content = Content(values)
        content.identity, content.revision = found, self._revision(tag, raw)
        return content

    def _raw_as(self, raw: bytes, asked: Any) -> tuple[Any, bytes, dict[str, Any]]:
        opened = self._naming(self.codec.open_raw_bson, raw)
        self._check_identity(opened[0], asked)
        return opened

    def mend(self, content: Mapping[str, Any]) -> Model:
        """A model of content that was loaded raw, which remembers of which revision it is."""
        self.need("open", what="mend")
        if not isinstance(content, Mapping) or isinstance(content, Metadata):
            raise QueryError(f"mend takes the content that load_raw gave, not a {type(content).__name__}")
        model = self.schema.revived(content)
        if isinstance(content, Content):
            remember(model, self.place, content.identity, (content.revision,))
        return model

    async def load_many(self, identities: Iterable[Any], *, session: Any) -> list[Model]:
        """Several documents by their ids, in the order of these."""
        self.need("open", what="load_many")
        if isinstance(identities, str | bytes | Mapping) or not isinstance(identities, Iterable):
            raise QueryError("load_many takes several ids, in a list, say; load takes one")
        given = list(identities)
        if self.hooks.before_load:
            await self.before_load(list(given))
        asked = [identity_value(self.schema, each) for each in given]
        keys = [comparable(envelope.as_stored(each)) for each in asked]
        found: dict[Any, Model] = {}
        for start in range(0, len(asked), _IDS):
            expected = set(keys[start : start + _IDS])
            where = {"_id": {"$in": asked[start : start + _IDS]}}
            if self.keys_due:
                await self.keys_at_hand()
            cursor = batches(self.collection, where, collation=BYTE_BY_BYTE, session=session)
            while documents := await self._naming_batch(cursor):
                found |= await self._telling(self._asked_for, documents, expected)
        missing = [identity for identity, key in zip(given, keys, strict=True) if key not in found]
        if missing:
            raise DocumentNotFoundError(f"{len(missing)} of {len(given)} documents are not there; this is the first").about(
                document_id=missing[0], collection=self.name
            )
        if self.hooks.after_load:
            for key in dict.fromkeys(keys):
                await self.after_load(found[key])
        return [found[key] for key in keys]

    def _asked_for(self, documents: Iterable[bytes], expected: set[Any]) -> dict[Any, Model]:
        """The models of a batch, by what their ids are equal by."""
        found = {}
        for identity, model in map(self.open, documents):
            key = comparable(envelope.as_stored(identity))
            if key not in expected:
                raise IntegrityError("the server answered with a document that was not asked for").about(
                    document_id=identity, collection=self.name
                )
            found[key] = model
        return found

    async def find_one(self, where: Filter, *, sort: SortKey | None, session: Any, **options: Any) -> Any:
        """The first document that matches, or None."""
        await self.keys_at_hand()
        compiled, found, options = self._question(where, sort, options)
        if self.hooks.before_load and not found.metadata:
            await self.before_load(where)
        if compiled.sift is not None:
            found.cursor = batches(self.collection, compiled.server, session=session, **options)
            model = await self._first(found)
        else:
            document = await settle(self.collection.find_one(compiled.server, session=session, **options))
            raw = None if document is None else raw_of(document)
            await self.meet([] if raw is None else [raw])
            model = None if raw is None else await self._telling(self._opened, raw, found)
        if self.hooks.after_load and model is not None and not found.metadata:
            await self.after_load(model)
        return model

    # What is asked most, one value of one blind index and nothing else, without a coroutine: as `Flows.loaded`.

    def at_once(self, where: Filter, sort: SortKey | None, *options: Any) -> Compiled | None:
        """The question, if it is one of these: no option is given, and nobody listens."""
        plainly = sort is None and not any(options) and not self.hooks.hear_reading and self.opens and not self.keys_due
        return Blind.at_once(self.schema, self.codec.indexer, where) if plainly else None

    def find_first(self, asked: Compiled, session: Any) -> Any:
        """What the driver gives for it."""
        return self.collection.find_one(asked.server, collation=BYTE_BY_BYTE, session=session)

    def found(self, document: Any, asked: Compiled) -> Model | None:
        """The model, of what the driver has given."""
        return None if document is None else self.open(raw_of(document), _asked(asked))[1]

    async def _first(self, found: Found) -> Any:
        try:
            first = await self.next(found)
        finally:
            await settle(found.cursor.close())
        return None if first is END else first

    def find(self, where: Filter, *, sort: SortKey | None, on_invalid: OnInvalid, session: Any, **options: Any) -> Found:
        """The driver's cursor over what matches, and what the documents have to answer."""
        check_on_invalid(on_invalid)
        compiled, found, options = self._question(where, sort, options)
        found.on_invalid = on_invalid
        found.offset = options.get("skip") or 0
        found.sized = bool(options.get("batch_size"))
        if compiled.sift is not None:
            found.skip = checked_count(options.pop("skip", 0))
            found.limit = abs(checked_count(options.pop("limit", 0), least=-_MOST))
        found.cursor = batches(self.collection, compiled.server, session=session, **options)
        if compiled.blind and self.keys_may_come:
            found.compile, found.server = (lambda: self._compiled(where, None)), compiled.server
        self._announce(found, where)
        self._look_up_opener(found)
        found.ahead = session is None  # which two threads must not use at once, and the loop around the cursor may
        return found

    def _opener(self, found: Found) -> Callable[[bytes], Model] | None:
        """How each document is opened, if it is handed out as a model as it is, and nobody is told of one that is wrong."""
        more = found.metadata or found.sift is not None or found.tells or self.hooks.integrity_failure
        return None if more or found.on_invalid != "raise" else self.opener(found.asked)

    def _look_up_opener(self, found: Found) -> None:
        """Under the keys of the moment."""
        if found.codec is not self.codec:
            found.codec, found.opener = self.codec, self._opener(found)

    def ask_by_newest(self, found: Found) -> None:
        """Before the server is asked: a filter asks for the values under the key that searches go by at this moment."""
        if found.compile is not None and found.codec is not self.codec:
            compiled = found.compile()
            found.server.clear()
            found.server.update(compiled.server)  # which the driver's cursor holds, and sends when it is asked
            found.asked, found.sift = _asked(compiled), compiled.sift
            self._look_up_opener(found)

    def _announce(self, found: Found, what: Any) -> None:
        """Let the hooks be told of what comes out of a cursor, if that is models."""
        if not found.metadata and not found.plain:
            found.question = what if self.hooks.before_load else _TOLD
            found.tells = bool(self.hooks.after_load)

    def _question(self, where: Filter, sort: SortKey | None, options: dict[str, Any]) -> tuple[Compiled, Found, dict[str, Any]]:
        """A filter compiled, what the documents will have to be, and the options of the driver's ``find``."""
        fields, collation = options.pop("fields", None), options["collation"]
        if fields not in (None, "metadata"):
            raise QueryError('fields="metadata" gives what stands in the clear; without it whole models come')
        if fields:
            self.need("metadata", what='find(…, fields="metadata")')
        else:
            self.need("open", what='find without fields="metadata"')
        compiled = self._compiled(where, collation)
        if fields and compiled.sift is not None:
            raise QueryError(
                'fields="metadata" decrypts nothing, and this filter is answered exactly only after decryption, because it asks '
                "a Bucket or an index of less than 128 bits. Leave fields= out, and take what you need of the models"
            )
        if sort is not None:
            options["sort"] = compile_sort(self.schema, sort)
        asked = _asked(compiled) if compiled.server and collation is None else None
        return compiled, Found(None, asked, "raise", compiled.sift, metadata=fields is not None), self._options(options)

    def _compiled(self, where: Filter, collation: Any) -> Compiled:
        """A filter, blind indexes included."""
        compiled = compile_search(self.schema, where, self.codec.indexer)  # type: ignore[arg-type]  # a bool is refused there
        if compiled.blind and collation is not None:
            raise QueryError("collation=: a blind index knows no collation. What it takes for equal is its normaliser's to say")
        return compiled

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        """pymongo's own options, which a hint and a collation become."""
        hint, collation = options.get("hint"), options.get("collation")
        if hint is not None and not isinstance(hint, str | Sequence | Mapping):
            raise QueryError("hint is the name of an index, or the fields that it is on, like a sort")
        if hint is not None and not isinstance(hint, str):
            options["hint"] = compile_sort(self.schema, hint)
        options["collation"] = collation or BYTE_BY_BYTE
        return {name: value for name, value in options.items() if value is not None}

    async def next(self, found: Found) -> Any:
        """The next model of a cursor, or `END`."""
        while (model := self.at_hand(found)) is WAIT:
            if found.untold is not None:
                if (model := await self.tell(found)) is not WAIT:
                    break
            elif not await self.refill(found):
                return END
        if model is END:
            await settle(found.cursor.close())
        return model

    def at_hand(self, found: Found) -> Any:
        """The next model of what has come; `WAIT` if there is none, or the user is to be told; `END` if no more is wanted."""
        if found.limit and found.given >= found.limit:
            return END
        if self._key_store is not None and perf_counter() > found.look and self._put_off(found):
            return WAIT
        if found.opener is None:
            return self._sorted_out(found)
        for document in found.waiting:
            return found.opener(document)
        return WAIT

    def _put_off(self, found: Found) -> bool:
        """Whether there are documents, and the keys are due: somebody may have taken hours over those before."""
        if not self.keys_due:
            found.look = perf_counter() + _LOOK
        elif found.untold is None:
            found.left += found.waiting
        return bool(found.left)

    def _sorted_out(self, found: Found) -> Any:
        """The same, where there is more to do than to open each document."""
        if found.untold is not None:
            return WAIT
        for document in found.waiting:
            try:
                opened = self._opened(document, found)
            except (EnvelopeError, UnknownKeyError) as error:  # never a KMSError: an outage is not an empty result
                if found.on_invalid == "raise" and not self.hooks.integrity_failure:
                    raise
                if found.on_invalid != "skip" or self.hooks.integrity_failure:
                    found.untold = error
                    return WAIT
            else:
                if opened is None:
                    continue
                if found.skip:
                    found.skip -= 1
                    continue
                found.given += 1
                if found.tells:
                    found.untold = opened
                    return WAIT
                return opened
        return WAIT

    async def tell(self, found: Found) -> Any:
        """Tell the user's functions of a model, and give it; or of what is wrong with a document, and give `WAIT`, or raise."""
        untold, found.untold = found.untold, None
        if not isinstance(untold, EnvelopeError | UnknownKeyError):
            await self.after_load(untold)
            return untold
        await self.integrity_failure(untold)
        if found.on_invalid == "raise":
            raise untold
        if callable(found.on_invalid):
            await self._answer_of(found.on_invalid(untold))
        return WAIT

    async def refill(self, found: Found) -> bool:
        """Wait for the next documents. Whether there are any."""
        if found.left:
            await self.resume(found)
            return True
        documents = await self.batch(found)
        found.waiting = iter(documents)
        return bool(documents)

    async def resume(self, found: Found) -> None:
        """What was put off can be opened, by the keys of the moment."""
        await self.meet([] if found.plain else found.left)
        self._look_up_opener(found)
        found.waiting, found.left = iter(found.left), []

    async def batch(self, found: Found) -> list[Any]:
        """The next documents of a cursor; none at its end. If their keys cannot be had, they are the next the next time."""
        if not found.come:
            found.come = await self._come(found)
        await self.meet([] if found.plain else found.come)
        if not found.plain:
            self._look_up_opener(found)
        documents, found.come = found.come, []
        return documents

    async def _come(self, found: Found) -> list[Any]:
        if self.keys_due:
            await self.keys_at_hand()
        self.ask_by_newest(found)
        found.compile = None
        if found.question is not _TOLD:
            await self.before_load(found.question)
            found.question = _TOLD
        if found.plain:
            document = await next_of(found.cursor)
            return [] if document is END else [document]
        return await self._next_batch(found.cursor)

    async def _naming_batch(self, cursor: Any) -> list[bytes]:
        """The next documents, and their keys."""
        documents = await self._next_batch(cursor)
        await self.meet(documents)
        return documents

    async def _next_batch(self, cursor: Any) -> list[bytes]:
        """The next documents; an error names the collection."""
        try:
            return await next_batch(cursor)
        except EnvelopeError as error:
            error.about(collection=self.name)
            raise

    def _opened(self, document: Any, found: Found) -> Any:
        """The model, or its metadata; None if it is not one of those that were meant."""
        if found.plain:
            return plain(document)
        if found.metadata:
            return self._metadata(document, found.asked)
        model = self.open(document, found.asked)[1]
        if found.sift is None or found.sift(decoded(document), model.__dict__):
            return model
        return None

    def _metadata(self, raw: bytes, asked: Asked | AskedValue | None) -> Metadata:
        identity, fields = self._naming(self.codec.metadata_bson, raw)
        self._check_answer(raw, asked, identity)
        return Metadata(self.schema.model.__name__, fields)

    async def count(self, where: Filter, *, max_time_ms: int | None, session: Any, **options: Any) -> int:
        """How many match: as the server says, or, where its answer has to be sifted, as they are."""
        self.need("metadata", "search", what="count")
        await self.keys_at_hand()
        compiled = self._compiled(where, options.get("collation"))
        if compiled.sift is None:
            options = self._options(options | {"maxTimeMS": max_time_ms})
            return self.number_of(await settle(self.collection.count_documents(compiled.server, session=session, **options)))
        found, number = self._sifted(compiled, session, options | {"max_time_ms": max_time_ms}), 0
        while await self.next(found) is not END:
            number += 1
        return number

    def _sifted(self, compiled: Compiled, session: Any, options: dict[str, Any]) -> Found:
        """What has to be decrypted for an answer that otherwise the server gives."""
        return self._decrypted(self.collection, compiled, session, options)

    def _decrypted(self, collection: Any, compiled: Compiled, session: Any, options: dict[str, Any]) -> Found:
        self.need("open", what=AFTER_DECRYPTION)
        asked = Asked(compiled.server) if options.get("collation") is None else None
        cursor = batches(collection, compiled.server, session=session, **self._options(options))
        return Found(cursor, asked, "raise", compiled.sift)

    async def exists(self, where: Filter, *, session: Any, **options: Any) -> bool:
        """Whether anything matches: as the server says, or, where its answer has to be sifted, as it is."""
        self.need("metadata", "search", what="exists")
        await self.keys_at_hand()
        compiled = self._compiled(where, options.get("collation"))
        if compiled.sift is not None:
            return await self._first(self._sifted(compiled, session, options)) is not None
        found = await settle(self.collection.find_one(compiled.server, {"_id": 1}, session=session, **self._options(options)))
        return found is not None

    async def distinct(self, name: str, where: Filter, *, max_time_ms: int | None, session: Any, **options: Any) -> list[Any]:
        """The values of one field, each once: as the server says, or, where its answer has to be sifted, as they are."""
        self.need("metadata", "search", what="distinct")
        await self.keys_at_hand()
        stored = stored_name(self.schema, name)
        compiled = self._compiled(where, options.get("collation"))
        if compiled.sift is None:
            plain = self.collection.with_options(codec_options=envelope.CODEC_OPTIONS)
            options = self._options(options | {"maxTimeMS": max_time_ms})
            values = await settle(plain.distinct(stored, compiled.server, session=session, **options))
        else:
            values = await self._distinct(stored, self._sifted(compiled, session, options | {"max_time_ms": max_time_ms}))
        if not isinstance(values, list):
            raise MalformedEnvelopeError("the server answered with something that is no list of values").about(collection=self.name)
        return [from_stored(self.schema, name, value) for value in values]

    async def aggregate(self, pipeline: Sequence[Mapping[str, Any]], *, session: Any, **options: Any) -> Found:
        """The driver's cursor over what comes out of a pipeline: sealed documents to be opened, or dicts of metadata."""
        self.need("metadata", "search", what="aggregate")
        await self.keys_at_hand()
        collation, options = options["collation"], self._options(options)
        compiled = compile_pipeline(self.schema, pipeline, lambda where: self._matched(where, collation))
        if compiled.whole:
            self.need("open", what="a pipeline out of which models come")
        if self.hooks.before_load and compiled.whole:
            await self.before_load(pipeline)
        collection = self.collection if compiled.whole else self.collection.with_options(codec_options=envelope.CODEC_OPTIONS)
        cursor = await settle(collection.aggregate(compiled.stages, session=session, **options))
        matches = [each["$match"] for each in compiled.stages if "$match" in each]
        asked = Asked({"$and": matches}) if compiled.whole and matches and collation is None else None
        tells = bool(self.hooks.after_load) and compiled.whole
        return Found(cursor, asked, "raise", plain=not compiled.whole, pipeline=True, tells=tells)

    def _matched(self, where: Mapping[str, Any], collation: Any) -> dict[str, Any]:
        """A ``$match`` on whole documents."""
        compiled = self._compiled(where, collation)
        if compiled.sift is not None:
            raise QueryError(
                "$match: this filter is answered exactly only after decryption, because it asks a Bucket or an index of less than "
                "128 bits. find() answers it; compute in Python"
            )
        return compiled.server

    async def _distinct(self, stored: str, found: Found) -> list[Any]:
        values: dict[Any, Any] = {}
        while documents := await self._naming_batch(found.cursor):
            for raw in documents:
                if await self._telling(self._opened, raw, found) is not None:
                    for value in distinct_values(decoded(raw), stored):
                        values.setdefault(comparable(value), value)
        return list(values.values())


def _asked(compiled: Compiled) -> Asked | AskedValue:
    if compiled.value is None:
        return Asked(compiled.server)
    definition, value = compiled.value
    return AskedValue(definition.stored, value, definition.head + value)


def check_on_invalid(given: OnInvalid) -> None:
    """Raise `QueryError` for what is none of its forms."""
    if given not in ("raise", "skip") and not callable(given):
        raise QueryError('on_invalid is "raise", "skip", or a function that is given the error')


def checked_count(count: Any, *, least: int = 0) -> int:
    """A number for ``skip`` or ``limit``. Raise `QueryError`."""
    if type(count) is not int or not least <= count <= _MOST:
        raise QueryError(f"skip and limit are numbers of documents: an int, 0 or more, not {type(count).__name__}")
    return count


#: What takes the capability "open", though it gives no models.
AFTER_DECRYPTION: Final = (
    "a filter that is answered exactly only after decryption, because it asks a Bucket or an index of less than 128 bits,"
)
#: What MongoDB takes for ``skip`` and ``limit``.
_MOST: Final = 2**31 - 1


def decoded(raw: bytes) -> dict[str, Any]:
    """A document as a dict, with the types of format v1."""
    return bson.decode(raw, envelope.CODEC_OPTIONS)
