"""The flows that write: each a compare-and-set on a revision, or an insert of what was not there.

An instance is sealed before anything is sent, and remembers what its document may be afterwards (`revision`), also where the
outcome is unknown: a lost reply, a transaction that may be aborted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from bson import Regex
from bson.errors import BSONError
from pydantic import BaseModel
from pymongo.errors import WriteError

from . import envelope, size
from .answer import comparable, same
from .bridge import settle
from .errors import (
    DocumentNotFoundError,
    DuplicateValueError,
    EnvelopeError,
    PayloadError,
    QueryError,
    RepositoryError,
    RevisionConflictError,
)
from .flows import END, Filter, as_document, in_transaction, raw_of
from .places import identity_value
from .primitives import fresh_iv
from .provision import BYTE_BY_BYTE
from .reading import Reading
from .revision import ABSENT, Revision, from_text, recall, remember
from .search import Compiled

__all__ = ["CHANGED", "DELETED", "EXISTS", "Sealed", "Writing", "same_shard"]

Model = TypeVar("Model", bound=BaseModel)


@dataclass(slots=True)
class Sealed:
    """One instance, sealed and ready to be written."""

    identity: Any
    raw: bytes
    known: tuple[Revision, ...]
    shard: tuple[Any, ...]

    @property
    def revision(self) -> Revision:
        """What its document will be of, once it is written."""
        return Revision(envelope.tag_of(self.raw), self.shard)


class Writing(Reading[Model]):
    """The flows that write, and those that read."""

    def seal(self, model: Model) -> Sealed:
        """Seal an instance, before anything is sent."""
        identity, raw = self.sealed(model)
        return Sealed(identity, raw, recall(model, self.place, identity), self._shard(raw))

    def sealed(self, model: Model, take_iv: Callable[[], bytes] = fresh_iv) -> tuple[Any, bytes]:
        """The stored ``_id`` and the stored document: here each instance is sealed that a repository saves."""
        try:
            identity, raw = self.codec.sealed(model, take_iv)
        except EnvelopeError as error:  # of a batch, say, which one
            given = getattr(model, self.schema.identity.name, None)
            error.about(document_id=given if self.schema.identity.node.fits(given) else None, collection=self.name)
            raise
        if len(raw) > size.NEVER_TOO_LARGE:
            self.check_size(identity, raw)
        return identity, raw

    def check_size(self, identity: Any, raw: bytes) -> None:
        """Raise `PayloadError` for a sealed document that MongoDB would not take, before it is sent there."""
        if size.excess(raw) > 0:
            problem = size.complaint(self.schema, raw, self.codec._opened(raw))
            raise PayloadError(f"not saved: {problem}").about(document_id=identity, collection=self.name)

    async def save(self, model: Model, *, overwrite: bool, revision: str | None, session: Any) -> Model:
        """Insert a new instance, replace the document that a loaded one stands for."""
        self.need("seal", what="save")
        if overwrite and revision is not None:
            raise QueryError("save: overwrite=True writes over any revision, revision= over one. Give one of the two")
        await self.keys_at_hand()
        if self.hooks.before_save:
            await self.before_save(model)
            await self.keys_at_hand()  # a listener may have taken its time
        sealed = self.seal(model)
        expected = sealed.known if revision is None else await self._since(sealed, revision, session)
        await self._store(model, sealed, expected, overwrite=overwrite, session=session)
        if self.hooks.after_save:
            await self.after_save(model)
        return model

    async def _since(self, sealed: Sealed, text: str, session: Any) -> tuple[Revision, ...]:
        """What to expect where the caller names a revision: that one, and what this instance has attempted on top of it since."""
        tag = _tag(text)
        tags = [revision.tag for revision in sealed.known]
        if tag in tags:
            return sealed.known[tags.index(tag) :]
        shard = await self._stored_shard(sealed.identity, session)
        return (Revision(tag, sealed.shard if shard is None else shard),)

    async def _store(self, model: Model, sealed: Sealed, expected: tuple[Revision, ...], *, overwrite: bool, session: Any) -> Model:
        """Write, and let the instance remember what the document may be now.

        What it knew before stays possible while the outcome is unknown, also if only a part of it was expected.
        """
        attempted = (*(sealed.known if expected[0] in sealed.known else expected), sealed.revision)
        try:
            if overwrite:
                failed = await self._overwrite(sealed, session)
            else:
                failed = await self._write(sealed, expected, session)
        except BaseException:  # a lost reply, a cancelled task, Ctrl-C: it may have been written
            remember(model, self.place, sealed.identity, attempted)
            raise
        if failed is not None:
            raise failed.about(document_id=sealed.identity, collection=self.name)
        remember(model, self.place, sealed.identity, attempted if in_transaction(session) else (sealed.revision,))
        return model

    async def _write(self, sealed: Sealed, expected: tuple[Revision, ...], session: Any) -> RepositoryError | None:
        """Compare-and-set on any of the revisions expected, and insert if the document may not be there."""
        try:
            if await self._replace(sealed, expected, session):
                return None
            if ABSENT not in expected:
                return await self._missed(sealed, expected, session)
            await settle(self.collection.insert_one(as_document(sealed.raw), session=session))
        except WriteError as error:
            failed = self._refused(error)
        else:
            return None
        if len(expected) == 1 or not isinstance(failed, RevisionConflictError) or in_transaction(session):
            return failed
        # An insert of ours, whose reply was lost, may have arrived only now: then it is there to be replaced.
        again = await self._write(sealed, tuple(each for each in expected if each != ABSENT), session)
        return failed if isinstance(again, RevisionConflictError) else again

    async def _replace(self, sealed: Sealed, expected: tuple[Revision, ...], session: Any) -> bool:
        """Replace the document if it is of one of these revisions. One command, but for an instance that changed its shard."""
        there = [revision for revision in expected if revision.tag is not None]
        while there:
            shard = there[0].shard
            here = [revision for revision in there if same_shard(revision.shard, shard)]
            there = [revision for revision in there if not same_shard(revision.shard, shard)]
            tags = [revision.tag for revision in here]
            where = self._where(sealed.identity, shard) | {"hmac": {"$in": tags}}
            document = as_document(sealed.raw)
            if (await settle(self.collection.replace_one(where, document, collation=BYTE_BY_BYTE, session=session))).matched_count:
                return True
        return False

    async def _overwrite(self, sealed: Sealed, session: Any) -> RepositoryError | None:
        """Replace whatever is there, or insert. Again if it has moved to another shard between question and answer."""
        failed: RepositoryError | None = None
        for by_id in self._looks:
            stored = await self._stored_shard(sealed.identity, session)
            where = self._where(sealed.identity, sealed.shard if stored is None else () if by_id else stored)
            # One that has been seen is not inserted if it does not match: the duplicate would end a transaction.
            upsert, document = stored is None or by_id, as_document(sealed.raw)
            try:
                result = await settle(
                    self.collection.replace_one(where, document, upsert=upsert, collation=BYTE_BY_BYTE, session=session)
                )
            except WriteError as error:
                failed = self._refused(error)
                if in_transaction(session) or not isinstance(failed, RevisionConflictError):
                    break
            else:
                if upsert or result.matched_count:
                    return None
        return failed

    def _refused(self, error: WriteError) -> RepositoryError:
        """What a write error means that is about the document. Any other one goes on its way."""
        failed = self.refused_with(error.code, error.details)
        if failed is None:
            raise error
        return failed

    def refused_with(self, code: int | None, details: Mapping[str, Any] | None) -> RepositoryError | None:
        """The same of its code; None if it is not about the document."""
        if code == _DUPLICATE_KEY:
            return self._duplicate(details)
        return RepositoryError(_GUARDED) if code == _NOT_VALID else None

    @staticmethod
    def is_by_the_server(error: Exception) -> bool:
        """Whether it is what `refused_with` makes of an error of the server's."""
        return isinstance(error, DuplicateValueError) or error.args[:1] in ((EXISTS,), (_GUARDED,))

    def _duplicate(self, details: Mapping[str, Any] | None) -> RepositoryError:
        """Which of the two a duplicate key is. The server's message quotes the value; ``keyPattern`` names the fields.

        What is told of it is what we call them: the names are the server's words, too, and so is what comes after a dot.
        """
        pattern = (details or {}).get("keyPattern") or {"_id": 1}
        fields = list(pattern) if isinstance(pattern, Mapping) else []
        if fields == ["_id"]:
            return RevisionConflictError(EXISTS)
        ours = " and ".join(dict.fromkeys(each for name in fields for each in self._named(name)))
        return DuplicateValueError(f"not saved: another document has the same {ours or 'value'}, and the index is unique")

    def _named(self, stored: str) -> list[str]:
        """The fields that a name in an index of MongoDB's is about, as the model calls them."""
        top, _, beneath = stored.partition(".")
        field = self.schema.field(top)
        if field is not None:
            return [field.name]
        return [part.field for each in self.schema.blind if top == "idx" and each.name == beneath for part in each.parts]

    def _where(self, identity: Any, shard: tuple[Any, ...]) -> dict[str, Any]:
        """The filter of a write by id: a sharded cluster finds the one shard by the fields of the shard key, if they are known."""
        return {"_id": identity, **{name: _literal(value) for name, value in zip(self._shard_key, shard, strict=False)}}

    @property
    def _looks(self) -> tuple[bool, ...]:
        """How often a document is looked for, as it may move to another shard in between; and whether by its id alone.

        At last by its id alone: a shard value that somebody has put there may not match itself, once pymongo has read it.
        """
        return (False, False, True) if self._shard_key else (True,)

    async def _stored_shard(self, identity: Any, session: Any) -> tuple[Any, ...] | None:
        """Which shard the stored document is on, as the server says; None if there is none. Nothing where it cannot be read."""
        if not self._shard_key:
            return ()
        where, fields = {"_id": identity}, dict.fromkeys(self._shard_key, 1)
        document = await settle(self._primary.find_one(where, fields, collation=BYTE_BY_BYTE, session=session))
        try:
            return None if document is None else self._shard(raw_of(document))
        except (BSONError, EnvelopeError):  # nobody has verified it
            return ()

    async def _missed(self, sealed: Sealed, expected: tuple[Revision, ...], session: Any) -> RepositoryError:
        """Why no document was there to be replaced."""
        known = expected[0] in sealed.known  # otherwise the caller has named the revision
        if not await self._is_there(sealed.identity, session):
            if not known:
                return DocumentNotFoundError("not saved: there is no such document")
            return DocumentNotFoundError(DELETED)
        if not known:
            return RevisionConflictError(_ANOTHER_REVISION.format("saved"))
        return RevisionConflictError(CHANGED)

    async def _is_there(self, identity: Any, session: Any) -> bool:
        where = {"_id": identity}
        return await settle(self._primary.find_one(where, {"_id": 1}, collation=BYTE_BY_BYTE, session=session)) is not None

    async def update(
        self, identity: Any, changes: Mapping[str, Any] | Callable[[Model], Any], *, revision: str | None, session: Any
    ) -> Model | RevisionConflictError:
        """Load, change, save: once. The shells repeat it after a conflict, which is given back: the function may raise its own."""
        saved = await self.update_untold(identity, changes, revision=revision, session=session)
        if self.hooks.after_save and not isinstance(saved, RevisionConflictError):
            await self.after_save(saved)
        return saved

    async def update_untold(
        self, identity: Any, changes: Mapping[str, Any] | Callable[[Model], Any], *, revision: str | None, session: Any
    ) -> Model | RevisionConflictError:
        """The same, but that the hooks are still to be told that it is saved."""
        self.need("seal", what="update")
        stored, loaded = await self._load(self._primary, identity, session)
        expected = recall(loaded, self.place, stored)
        if revision is not None and expected[0].tag != _tag(revision):
            return RevisionConflictError(_ANOTHER_REVISION.format("saved")).about(document_id=stored, collection=self.name)
        return await self._change_and_store(stored, loaded, changes, session)

    async def _change_and_store(
        self, stored: Any, loaded: Model, changes: Mapping[str, Any] | Callable[[Model], Any], session: Any
    ) -> Model | RevisionConflictError:
        expected = recall(loaded, self.place, stored)
        changed = await self.changed(stored, loaded, changes)
        sealed = self.seal(changed)
        self.check_unmoved(sealed.identity, stored)
        try:
            return await self._store(changed, sealed, expected, overwrite=False, session=session)
        except RevisionConflictError as conflict:
            return conflict

    async def changed(self, stored: Any, loaded: Model, changes: Mapping[str, Any] | Callable[[Model], Any]) -> Model:
        """A loaded instance with its changes, which stands for the document that was loaded."""
        expected = recall(loaded, self.place, stored)
        if callable(changes):
            given = await self._answer_of(changes(loaded))
            changed = loaded if given is None else given
            if not isinstance(changed, self.schema.model):
                raise QueryError(
                    f"update: the function gives back a {self.schema.model.__name__}, or None after changing the one it was given, "
                    f"and not a {type(changed).__name__}"
                )
        else:
            changed = self.codec.reloaded(self.schema.assigned(loaded, changes))
        if self.hooks.before_save:
            await self.before_save(changed)
        if callable(changes) or self.hooks.before_save:
            changed = self.codec.reloaded(changed)
        remember(changed, self.place, stored, expected)
        return changed

    def check_unmoved(self, identity: Any, stored: Any) -> None:
        """Raise `QueryError` if a function has changed the id."""
        if not same(identity, stored):
            raise QueryError("update: the function, or a hook, changed the id. Save a new instance, and delete this document")

    async def delete(self, identity: Any, *, revision: str | None, session: Any) -> bool:
        """Delete one document by its id."""
        deleted = await self.delete_untold(identity, revision=revision, session=session)
        if deleted and self.hooks.after_delete:
            await self.after_delete(identity)
        return deleted

    async def delete_untold(self, identity: Any, *, revision: str | None, session: Any) -> bool:
        """The same, but that the hooks are still to be told that it is deleted."""
        self.need("seal", what="delete")
        asked = identity_value(self.schema, identity)
        expected = {} if revision is None else {"hmac": _tag(revision)}
        if self.hooks.before_delete:
            await self.before_delete(identity)
        for by_id in self._looks:
            shard = await self._stored_shard(asked, session)
            if shard is None:
                break
            where = self._where(asked, () if by_id else shard) | expected
            if (await settle(self.collection.delete_one(where, collation=BYTE_BY_BYTE, session=session))).deleted_count:
                return True
            if by_id and expected and await self._is_there(asked, session):
                raise RevisionConflictError(_ANOTHER_REVISION.format("deleted")).about(document_id=identity, collection=self.name)
        return False

    async def delete_many(self, where: Filter, *, collation: Any, session: Any) -> int:
        """Delete what matches."""
        self.need("seal", what="delete_many")
        if where is None:
            raise QueryError("delete_many takes a filter. All documents match {}")
        await self.keys_at_hand()
        compiled = self._compiled(where, collation)
        if compiled.sift is not None or self.hooks.hear_deleting:
            return await self._delete_one_by_one(compiled, collation, session)
        result = await settle(self.collection.delete_many(compiled.server, collation=collation or BYTE_BY_BYTE, session=session))
        return self.number_of(result.deleted_count)

    async def _delete_one_by_one(self, compiled: Compiled, collation: Any, session: Any) -> int:
        """What was meant of what the server finds, each at the revision that was looked at."""
        found, deleted = self._decrypted(self._primary, compiled, session, {"collation": collation}), 0
        while (model := await self.next(found)) is not END:
            given = getattr(model, self.schema.identity.name)
            if self.hooks.before_delete:
                await self.before_delete(given)
            identity = self.schema.identity.node.projected(given)
            revisions = recall(model, self.place, identity)
            where = self._where(identity, revisions[0].shard) | {"hmac": {"$in": [each.tag for each in revisions]}}
            result = await settle(self.collection.delete_one(where, collation=BYTE_BY_BYTE, session=session))
            number = self.number_of(result.deleted_count)
            if number and self.hooks.after_delete:
                await self.after_delete(given)
            deleted += number
        return deleted


def _tag(text: str) -> bytes:
    """The tag of a revision that the caller names. A text that no repository wrote is a conflict with whatever is stored.

    So it becomes a tag that no document can have: nobody could guess it.
    """
    if not isinstance(text, str):
        raise QueryError(f"a revision is the text that repository.revision(…) gave, not a {type(text).__name__}")
    return from_text(text) or secrets.token_bytes(32)


def same_shard(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether MongoDB takes two shards for one: Python's own ``==`` would, of 1 and True."""
    return bool(comparable(list(one)) == comparable(list(other)))


def _literal(value: Any) -> Any:
    """A stored value as a condition, so that one with operators in it is not taken for them."""
    return {"$eq": value} if isinstance(value, dict | Regex) else value


EXISTS: Final = "not saved: a document with this _id exists already. Load it to change it, or save(…, overwrite=True)"
DELETED: Final = "not saved: the document has been deleted. save(…, overwrite=True) writes it anew"
CHANGED: Final = "not saved: somebody else wrote the document since it was loaded. Load it again, and repeat the change"
_ANOTHER_REVISION: Final = "not {}: the document is of another revision than the one named. Load it again"
_DUPLICATE_KEY: Final = 11000
#: DocumentValidationFailure. The server's own words quote the document.
_NOT_VALID: Final = 121
_GUARDED: Final = (
    "not saved: the collection's validator refuses the document: its guard is of another version of the model, and setup() brings "
    "it up to date; or a validator of your own refuses it"
)
