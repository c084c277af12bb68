"""The flows that look after a whole collection: whether all is well with it, and how one key takes the place of another.

`rotate` seals documents anew that are not under the primary data key, `reindex` those whose index values are not under the written
index keys; each document by compare-and-set, so that it may run while the service works, be stopped at any moment, and begin again:
what is done no longer matches what it looks for. `doctor` lists
what is wrong, as the server says; `verify` opens every document and computes again what stands in the clear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from . import envelope, guard
from .answer import Asked
from .bridge import settle
from .bulk import Bulk
from .datakey import DataKey, IndexKey
from .errors import ConfigurationError, EnvelopeError, RepositoryError, UnknownKeyError
from .flows import END, Filter, as_document, batches, next_of, raw_of
from .keys import KeyRing
from .provision import BYTE_BY_BYTE, indexes_of, is_strict, options_of, unfit, wanted_indexes
from .reading import AFTER_DECRYPTION, OnInvalid, check_on_invalid, decoded
from .search import Sift

__all__ = ["Finding", "OnProgress", "Upkeep"]

Model = TypeVar("Model", bound=BaseModel)
#: (documents done, documents to do, as far as that is known)
OnProgress = Callable[[int, int], Any]
#: So many documents are replaced in one command.
_BATCH: Final = 200
#: So often `reindex` begins again for documents that were written in between.
_PASSES: Final = 10
_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a collection."""

    kind: str  #: "plaintext", "not sealed as the model is", "version", "unknown key", …
    text: str  #: what it is, and what to do
    count: int | None = None  #: how many documents, if it is about documents
    examples: tuple[Any, ...] = ()  #: the ids of some of them, unverified

    def __str__(self) -> str:
        number = "" if self.count is None else f" ({self.count})"
        return f"{self.kind}{number}: {self.text}"


@dataclass(slots=True)
class _Run:
    """One call of `reindex` or `rotate`."""

    anew: Literal["resealed", "reindexed"]  #: what of the codec gives the verified ``_id``, and the document as it shall be
    on_progress: OnProgress | None
    on_invalid: OnInvalid
    done: int = 0
    total: int = 0
    lost: int = 0  #: how many somebody else wrote first, in this pass: they may be as stale as before
    reported: set[bytes] = field(default_factory=set)
    told: tuple[int, int] | None = None  #: what was said of the progress


class Upkeep(Bulk[Model]):
    """The flows that look after a collection, and all others."""

    # --- data keys ----------------------------------------------------------------------------------------------------

    async def rotate(self, *, on_progress: OnProgress | None, on_invalid: OnInvalid, session: Any) -> int:
        """Seal anew what is not under the primary data key; how many documents that were."""
        self.need("seal", what="rotate")
        check_on_invalid(on_invalid)
        await self.newest_keys()
        run = _Run("resealed", on_progress, on_invalid)
        return await self._renew(lambda: {"v": 1, "hmac": {"$exists": True}, "kid": {"$ne": self._keys.primary}}, run, session)

    async def retire_data_key(self, kid: str | DataKey, *, session: Any) -> KeyRing:
        """A ring without a data key; refused while a document is under it."""
        self.need("seal", what="retire_data_key")
        await self.newest_keys()
        ring = self._keys.without_key(kid)
        kid = _id_of(kid)
        left = await self._number_of({"kid": kid}, session)
        if left:
            raise ConfigurationError(
                f"{self.name}: {left} documents are under {kid}. rotate() seals them anew under the primary key"
            )
        return ring

    # --- index keys ---------------------------------------------------------------------------------------------------

    async def reindex(self, *, every: bool, on_progress: OnProgress | None, on_invalid: OnInvalid, session: Any) -> int:
        """Seal anew what has other index values than today's; how many documents that were."""
        self.need("seal", what="reindex")
        check_on_invalid(on_invalid)
        await self.newest_keys()
        if not self.codec.indexer and not every:
            raise ConfigurationError(
                f"{self.schema.model.__name__} has no blind index (any more); every=True takes away what is left"
            )
        if not every and (foreign := await self._number_of(self._under_other_keys(), session)):
            raise ConfigurationError(f"{self.name}: {foreign} documents {_OTHER_RING}")
        run = _Run("reindexed", on_progress, on_invalid)
        return await self._renew(dict if every else self._stale, run, session, passes=1 if every else _PASSES)

    async def _renew(self, stale: Callable[[], dict[str, Any]], run: _Run, session: Any, *, passes: int = _PASSES) -> int:
        """Write anew what is stale by the keys of the moment, and again, for what was written in between."""
        for number in range(passes):
            where = stale()
            run.total = run.done + await self._number_of(where, session)
            before, run.lost = run.done, 0
            if number == 0 or run.total > run.done:
                await self._renew_once(where, run, session)
            if run.done == before and not run.lost:
                break
        return run.done

    def _stale(self) -> dict[str, Any]:
        """The documents whose index values are not under exactly the written keys."""
        wanted = list(self._keys.written_index_keys)
        if len(wanted) > 1:
            return {"$or": [{"idx.kid": {"$ne": wanted}}, *self._lacking()]}
        return {"$or": [{"idx.kid": {"$ne": wanted[0]}}, {"idx.kid": {"$type": "array"}}, *self._lacking()]}

    def _lacking(self) -> list[dict[str, Any]]:
        """For each blind index, the documents that were sealed when there was none."""
        return [{each.stored: {"$exists": False}} for each in self.schema.blind]

    def _under_other_keys(self) -> dict[str, Any]:
        """The documents with index values under a key that is not in the ring."""
        other = {"$nin": list(self._keys.index_keys)}
        return {"$or": [{"idx.kid": {"$type": "string", **other}}, {"idx.kid": {"$elemMatch": other}}]}

    async def _number_of(self, where: Mapping[str, Any], session: Any) -> int:
        return self.number_of(await settle(self._primary.count_documents(where, collation=BYTE_BY_BYTE, session=session)))

    async def _renew_once(self, where: Mapping[str, Any], run: _Run, session: Any) -> None:
        cursor = batches(self._primary, where, collation=BYTE_BY_BYTE, batch_size=_BATCH, session=session)
        while documents := await self._naming_batch(cursor):
            replacements = [await self._replacement(raw, run) for raw in documents]
            await self._write_batch([each for each in replacements if each is not None], run, session)
        await self._progress(run)

    async def _replacement(self, raw: bytes, run: _Run) -> tuple[Any, ReplaceOne[Any]] | None:
        """The ``_id``, and a compare-and-set: whoever writes in between writes under the same keys."""
        try:
            identity, anew = self._naming(getattr(self.codec, run.anew), raw)
            self.check_size(identity, anew)
        except (EnvelopeError, UnknownKeyError) as error:
            invalid = error
        else:
            where = self._where(identity, self._shard(raw)) | {"hmac": envelope.tag_of(raw)}
            return identity, ReplaceOne(where, as_document(anew), collation=BYTE_BY_BYTE)
        await self._report(invalid, raw, run)
        if run.on_invalid == "raise":
            raise invalid
        return None

    async def _write_batch(self, batch: list[tuple[Any, ReplaceOne[Any]]], run: _Run, session: Any) -> None:
        refused: list[RepositoryError] = []
        before = run.done
        try:
            replaced = [each for _, each in batch]
            result = (await settle(self.collection.bulk_write(replaced, ordered=False, session=session))) if batch else None
        except BulkWriteError as error:  # which quotes whole documents
            details = error.details or {}
            for problem in details.get("writeErrors") or [{}]:
                failed = self.refused_with(problem.get("code"), problem)
                if failed is None:
                    raise
                refused.append(failed.about(document_id=batch[problem["index"]][0], collection=self.name))
            run.done += self.number_of(details.get("nMatched", 0))
        else:
            run.done += 0 if result is None else self.number_of(result.matched_count)
        run.lost += len(batch) - len(refused) - (run.done - before)
        for failed in refused:
            if run.on_invalid == "raise":
                raise failed
            await self._report(failed, str(failed).encode(), run)
        await self._progress(run)

    async def _progress(self, run: _Run) -> None:
        progress = run.done, max(run.done, run.total)
        if run.on_progress is not None and run.told != progress:
            run.told = progress
            await self._answer_of(run.on_progress(*progress))

    async def _report(self, invalid: Any, what: bytes, run: _Run) -> None:
        """Once: a later pass meets the same again."""
        digest = hashlib.sha256(what).digest()
        if digest in run.reported:
            return
        run.reported.add(digest)
        await self.integrity_failure(invalid)
        if callable(run.on_invalid):
            await self._answer_of(run.on_invalid(invalid))

    async def search_by(self, kid: str | IndexKey, *, session: Any) -> KeyRing:
        """A ring that searches by another index key; refused while a document has no values under it."""
        self.need("search", what="search_by")
        await self.newest_keys()
        ring = self._keys.searching_by(kid)
        kid = _id_of(kid)
        lacking = 0 if not self.codec.indexer else await self._number_of({"idx.kid": {"$ne": kid}}, session)
        if lacking:
            raise ConfigurationError(
                f"{self.name}: {lacking} documents have no index values under {kid}, and would not be found. reindex() writes them"
            )
        return ring

    async def retire_index_key(self, kid: str | IndexKey, *, session: Any) -> KeyRing:
        """A ring without an index key; refused while a document has values under it."""
        self.need("search", what="retire_index_key")
        await self.newest_keys()
        ring = self._keys.without_index_key(kid)
        kid = _id_of(kid)
        left = await self._number_of({"idx.kid": kid}, session)
        if left:
            raise ConfigurationError(
                f"{self.name}: {left} documents have index values under {kid}. reindex() writes them anew without"
            )
        return ring

    # --- is all well? -------------------------------------------------------------------------------------------------

    async def verify(self, where: Filter, *, on_invalid: OnInvalid, session: Any) -> int:
        """Open every document that matches and compute again what stands in the clear; how many documents are right.

        A restricted ring opens nothing: then they are right whose tags are, and that answer the filter.
        """
        check_on_invalid(on_invalid)
        self.need("verify", what="verify")
        await self.newest_keys()
        compiled = self._compiled(where, None)
        if compiled.sift is not None:
            self.need("open", what=AFTER_DECRYPTION)
        cursor = batches(self.collection, compiled.server, collation=BYTE_BY_BYTE, batch_size=_BATCH, session=session)
        asked, right = Asked(compiled.server), 0
        while documents := await self._naming_batch(cursor):
            for raw in documents:
                try:
                    right += self._is_meant(raw, asked, compiled.sift)
                except (EnvelopeError, UnknownKeyError) as error:
                    invalid = error
                else:
                    continue
                await self.integrity_failure(invalid)
                if on_invalid == "raise":
                    raise invalid
                if callable(on_invalid):
                    await self._answer_of(on_invalid(invalid))
        return right

    def _is_meant(self, raw: bytes, asked: Asked, sift: Sift | None) -> bool:
        """Whether a document that is right is one of those that were meant. Raise what says that it is wrong."""
        if not self.opens:
            self._check_answer(raw, asked, self._naming(self.codec.metadata_bson, raw)[0])
            return True
        identity, _, model = self._naming(self.codec.verify_bson, raw)
        self._check_answer(raw, asked, identity)
        return sift is None or sift(decoded(raw), model.__dict__)

    async def doctor(self, *, indexes: Sequence[Any], session: Any) -> list[Finding]:
        """What is wrong with the collection, as the server says. A ring without "search" does not look at index values."""
        self.need("verify", what="doctor")
        """What is wrong with the collection, as the server says."""
        await self.newest_keys()
        options = await options_of(self._primary, session)
        if options is None:
            return [Finding("no collection", f"{self.name} is not there yet: setup() makes it")]
        if (problem := unfit(self.name, options)) is not None:
            return [Finding("unfit collection", problem)]
        ours = guard.validator(self.schema)
        findings = []
        existing = options.get("validator") or {}
        if not guard.installed(existing, ours) and (guard.without(existing) or {}) == existing:
            findings.append(Finding("no guard", "other clients can write plaintext: setup() puts the guard up"))
        elif not guard.installed(existing, ours):
            text = "of another version of the model: setup() of the newest version puts the right one up"
            findings.append(Finding("another guard", text))
        elif not is_strict(options):
            findings.append(Finding("no guard", "it is there, and does not refuse all that it should: setup()"))
        there = await indexes_of(self._primary, session)
        for each in wanted_indexes(self.schema, indexes):
            if each.is_served_by_one_of(there):
                continue
            stands = list(each.keys) in [list(index["key"]) for index in there]
            way_out = (
                "one that does other than is wanted stands in its way; drop it, then setup()" if stands else "setup() makes it"
            )
            findings.append(Finding("missing index", f"{each.name}: {way_out}"))
        findings += self._parallel_indexes(there)
        for kind, where, text in self._complaints(ours):
            if count := await self._number_of(where, session):
                findings.append(Finding(kind, text, count, await self._examples(where, session)))
        return findings

    def _complaints(self, ours: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
        """What to look for among the documents, and what to say of it."""
        sealed: dict[str, Any] = {"hmac": {"$type": "binData"}, "data": {"$type": "binData"}, "v": 1}
        known: dict[str, Any] = {**sealed, "kid": {"$in": list(self._keys)}}
        complaints: list[tuple[str, dict[str, Any], str]] = [
            ("plaintext", {"hmac": {"$exists": False}}, "not sealed, so that nothing in them is verified: save them through us"),
            ("version", {"hmac": {"$exists": True}, "v": {"$ne": 1}}, "of a version that this package does not read"),
            ("unknown key", {**sealed, "kid": {"$nin": list(self._keys)}}, "sealed under keys that are not in this ring"),
            ("not as the model is", {"hmac": {"$exists": True}, "v": 1, "$nor": [ours]}, _NOT_AS_THE_MODEL),
        ]
        if self.codec.indexer and "search" in self._keys.capabilities:
            retired = {**known, **self._under_other_keys()}
            unsearchable = {**known, "$or": [{"idx.kid": {"$ne": self._keys.search_key}}, *self._lacking()]}
            stale = {**known, "$nor": [self._under_other_keys(), *unsearchable["$or"]], **self._stale()}
            complaints += [
                ("retired index key", retired, _OTHER_RING),
                ("not searchable", unsearchable, "not found by one of their blind indexes: reindex()"),
                ("index values", stale, "not under exactly the written index keys: reindex()"),
            ]
        return complaints

    async def _examples(self, where: Mapping[str, Any], session: Any) -> tuple[Any, ...]:
        cursor = self._primary.find(where, {"_id": 1}, limit=_EXAMPLES, collation=BYTE_BY_BYTE, session=session)
        found = []
        while (document := await next_of(cursor)) is not END:
            found.append(envelope.identify(raw_of(document)))
        return tuple(found)

    def _parallel_indexes(self, there: Sequence[Mapping[str, Any]]) -> list[Finding]:
        lists = {field.stored for field in self.schema.stored if field.node.item is not None}
        several = [
            index
            for index in there
            if sum(str(key[0]).startswith("idx.") or str(key[0]) in lists for key in index["key"]) > 1
            and any(str(key[0]).startswith("idx.") for key in index["key"])
        ]
        return [Finding("parallel arrays", f"{len(several)} {_PARALLEL}")] if several else []


def _id_of(key: str | DataKey | IndexKey) -> str:
    return key if isinstance(key, str) else key.kid


_PARALLEL: Final = (
    "of an index on a blind index and another array, as a second blind index is while an index key is replaced: MongoDB refuses "
    "every write then. Drop it"
)
_OTHER_RING: Final = (
    "with index values under keys that are not in this ring. If this process has an older key file than the others, give it the "
    "newer one; if these keys are lost, reindex(every=True)"
)
_NOT_AS_THE_MODEL: Final = (
    "with a name or a type in the clear that the model does not have (any more): somebody edited them, or the model has changed "
    "since. Load and save them"
)
