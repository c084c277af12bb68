"""`KeyStore`: keys in a collection or a file, wrapped and sealed; made by several processes at once, rotated in place.

`unlock` gives the ring of the moment; here stands what changes a store. Each change is one record, inserted or replaced by
compare-and-set, in an order in which what is there at any moment is right: a crash in between is finished by the next who comes.

The store is synchronous. Whoever runs an event loop opens it with ``await CollectionKeyStore.open(…)``; repositories over the async
driver wait for it in a thread.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

from pymongo import ReadPreference
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from . import unlock
from .datakey import DataKey, IndexKey
from .errors import ConfigurationError, IntegrityError, KMSError, MalformedEnvelopeError
from .keys import Capability, KeyRing
from .kms import KMS
from .records import (
    KeyRecord,
    Purpose,
    Roles,
    Root,
    RootRecord,
    State,
    is_same,
    is_usable,
    missing_roles,
    read_contents,
    read_root,
    written_in_order,
)
from .storage import CollectionStorage, FileStorage, Storage, identity_of
from .unlock import Unlocked, checked_kms

__all__ = ["CollectionKeyStore", "FileKeyStore", "KeyStore", "StoredKey"]

_log: Final = logging.getLogger(__name__)
Record = TypeVar("Record", KeyRecord, Roles)
#: state → what may become of it
_NEXT: Final[Mapping[State, tuple[State, ...]]] = {
    "active": ("decrypt-only", "compromised", "destroyed"),
    "decrypt-only": ("compromised", "destroyed"),
    "compromised": ("destroyed",),
    "destroyed": (),
}
#: So often a change is tried again because somebody else has changed the same record.
_TURNS: Final = 100
#: A key that was made so long ago and is not the primary one nobody is about to make that.
_LEFT_BEHIND: Final = timedelta(minutes=1)
#: Seconds for one question to the key service, or one command to the database.
_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key of a store, as it may be shown."""

    kid: str
    purpose: Purpose
    state: State
    created: datetime
    check: str  #: 16 hexadecimal digits, by which a key is recognised
    primary: bool = False  #: seals
    searched: bool = False  #: searches go by it
    written: bool = False  #: index values are written under it


class StoreOptions(TypedDict, total=False):
    """What a store takes beside its place and its key-encryption key: `KeyStore` says what each is."""

    fingerprint: str | None
    create: bool
    refresh_after: float
    expire_after: float
    max_age: timedelta | None
    timeout: float


class KeyStore(Unlocked):
    """What `CollectionKeyStore` and `FileKeyStore` have in common. Safe to share between threads, and after a fork."""

    def __init__(
        self,
        storage: Storage,
        *,
        kms: KMS | Sequence[KMS],
        fingerprint: str | None = None,
        create: bool = False,
        refresh_after: float = 300.0,
        expire_after: float = 86_400.0,
        max_age: timedelta | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        """Unlock a store, or make it. It asks the key service, and raises what that raises.

        ``kms``: the key-encryption key; of several the one that has wrapped the root, and the first where a store is made.
        ``fingerprint``: of the root, 32 hexadecimal digits, as it was logged when the store was made (`fingerprint`); whoever can
        write the store cannot slip in another root then. A key of an asymmetric kind wants it. ``create``: make the store if it is
        not there. ``refresh_after``, ``expire_after``, ``timeout``: in seconds; the last is for one question to the key service,
        with all attempts, or one command to the database. All processes of a store should have the same ``expire_after``.
        ``max_age``: of the key that seals; a warning is logged when nine tenths of it are over, and then it does not seal any more.

        Raise `ConfigurationError` for what does not fit, `KMSError`, and `EnvelopeError` for a record that was edited.
        """
        super().__init__(
            storage,
            kms,
            fingerprint=fingerprint,
            refresh_after=refresh_after,
            expire_after=expire_after,
            max_age=max_age,
            timeout=timeout,
        )
        #: whether this process has made it a moment ago, and nothing can be sealed under its keys yet
        self.made = False
        #: and the collections that have been looked at for documents under other keys
        self.proved: set[str] = set()
        #: whether the root was there, and the keys were not: a start that stopped is finished, or somebody has removed them
        self.finished = False
        begun, raws = unlock._clock(), storage.read()
        if not _has(raws, "root"):
            raws = self._make(raws, create=create)
        self._unlock(raws, begun)
        if self._expected is None:
            _log.warning(
                "opened the key store in %s without a fingerprint: whoever can write it, and have its key-encryption key encrypt, "
                "could put another there. Compare with what was logged when the store was made, and configure it: fingerprint=%r",
                storage,
                self.fingerprint,
            )
        if create and not _has(raws, "roles"):
            raws = self._completed(raws)
        self._take(raws, begun)

    @property
    def store_id(self) -> str:
        """16 hexadecimal digits, by which the store is recognised."""
        return self._root.store

    @property
    def fingerprint(self) -> str:
        """Of the root, 32 hexadecimal digits: to be given in the configuration, and kept nowhere near the store."""
        return self._root.fingerprint.hex()

    def is_kept_in(self, collection: Any) -> bool:
        """Whether its records lie in a collection of this name; which server it is on cannot be told without asking."""
        return isinstance(self._storage, CollectionStorage) and str(self._storage) == collection.full_name

    def keys(self) -> list[StoredKey]:
        """All keys, the oldest first, as they are in the store now."""
        self.refresh()
        roles = self._roles()
        return [
            StoredKey(
                each.kid,
                each.purpose,
                each.state,
                each.created,
                each.check.hex(),
                primary=each.kid == roles.primary,
                searched=each.kid == roles.search_by,
                written=each.kid in roles.written,
            )
            for each in sorted(self._contents.keys.values(), key=lambda each: (each.created, each.kid))
        ]

    def restrict(self, *capabilities: Capability, contexts: Sequence[str]) -> KeyRing:
        """`KeyRing.restrict` of the ring of the moment. What is made of it does not change with the store."""
        return self.ring().restrict(*capabilities, contexts=contexts)

    # --- making one ---------------------------------------------------------------------------------------------------

    def _make(self, raws: Sequence[bytes], *, create: bool) -> list[bytes]:
        """The records of a store that was not there, once it has a root. Of several processes one makes it."""
        if not all(isinstance(identity_of(raw), str) for raw in raws):
            raise MalformedEnvelopeError(f"a document in {self._storage} is no record of a key store: its _id is no text")
        if raws:
            raise IntegrityError(
                f"there are documents in {self._storage}, and no root record of a key store: if it is one, restore it from a "
                "backup. A new one wants a place of its own"
            ).about(document_id="root")
        if not create:
            raise ConfigurationError(
                f"there is no key store in {self._storage}. If there are data already, restore it; otherwise create=True makes one"
            )
        if self._expected is not None:
            raise ConfigurationError(
                f"there is no key store in {self._storage}, and the fingerprint says that there was one: restore it. For a new "
                "one, leave the fingerprint out"
            )
        root = Root.generate()
        if self._storage.insert(self._wrapped(root, self._kms[0]).as_bson()):
            self._expected = root.fingerprint  # what we have made ourselves is what we mean
            self.made = True
            _log.warning(
                "made a key store in %s. Its fingerprint belongs into the configuration: fingerprint=%r",
                self._storage,
                root.fingerprint.hex(),
            )
        return self._storage.read()

    def _completed(self, raws: Sequence[bytes]) -> list[bytes]:
        """The first keys and their roles. Each step may have been done by another process, or before a crash."""
        root = self._root
        data, index = f"{root.store}-data", f"{root.store}-index"
        there = self._consistent(raws)[1].keys
        if there.keys() - {data, index} or any(each.state != "active" for each in there.values()):
            raise missing_roles()  # the store was finished once, and has been used
        self.finished = not self.made
        self.made |= self._storage.insert(KeyRecord.of(DataKey.generate(data)).sealed(root))
        self._storage.insert(KeyRecord.of(IndexKey.generate(index)).sealed(root))
        self._storage.insert(Roles(data, index, (index,), datetime.now(UTC)).sealed(root))
        return self._storage.read()

    def _wrapped(self, root: Root, kms: KMS) -> RootRecord:
        """The root under a key-encryption key, and unwrapped again before anybody relies on it."""
        wrapped = self._ask(lambda: kms.wrap(root.secret))
        if root.secret in wrapped:  # a stub, or a class that somebody has not finished: the root would lie in the clear
            raise KMSError("the key service gave the secret back as it was, and has not wrapped it: nothing was written")
        if not hmac.compare_digest(self._ask(lambda: kms.unwrap(wrapped)), root.secret):
            raise KMSError("the key service does not unwrap what it has wrapped: nothing was written")
        record = RootRecord(root.store, dict(kms.identity), wrapped, datetime.now(UTC))
        if not is_same(read_root(record.as_bson()).kms, record.kms):
            raise ConfigurationError("the identity of this key-encryption key does not come back from BSON as it was")
        return record

    # --- data keys ----------------------------------------------------------------------------------------------------

    def rotate_data_key(self) -> str:
        """Add a data key, which seals from now on; its id. The one before opens only.

        Documents move when they are saved, or all of them by `Repository.rotate`.
        """
        key = DataKey.generate()
        self._insert(KeyRecord.of(key))
        self._change_roles(lambda roles: self._sealing_with(key.kid, roles))
        made = key.created or datetime.now(UTC)
        for each in list(self._contents.keys.values()):  # what a crash between these steps has left behind
            if each.purpose == "data" and each.created < made - _LEFT_BEHIND and each.kid != self._roles().primary:
                self._retire(each.kid)
        # Somebody who took it out of use at this moment has had another one made in its place.
        return key.kid if is_usable(key.kid, "data", self._contents.keys) else self._roles().primary

    def _sealing_with(self, kid: str, roles: Roles) -> Roles:
        """The roles in which this key seals. The one before is retired first: whatever happens in between, it opens, and seals."""
        self._check_usable(kid, "data")
        if roles.primary == kid:
            return roles  # a reply was lost, and it has the role already
        if self._contents.keys[kid].state != "active":
            raise ConfigurationError(f"{kid} has been retired in the meantime: somebody is about to destroy it")
        self._retire(roles.primary)
        return roles.but(primary=kid)

    def _check_usable(self, kid: str, purpose: Purpose) -> None:
        if not is_usable(kid, purpose, self._contents.keys):
            raise ConfigurationError(f"{kid} has been {self._contents.keys[kid].state} in the meantime")

    def _retire(self, kid: str) -> None:
        self._changed(lambda: self._record(kid), lambda record: record.but("decrypt-only") if record.state == "active" else record)

    def _bar(self, kid: str) -> None:
        """From now on nobody gives this data key a role, not even who is about to.

        Roles go to active keys only. Whoever read that it is active, before it was retired, has read these roles, too: they are
        written anew as they are, so that his compare-and-set fails. Otherwise the roles could name a key that is no more, and the
        store would not open.
        """

        def change(roles: Roles) -> Roles:
            if roles.primary == kid:
                raise ConfigurationError(f"{kid} is the primary key, which seals: rotate_data_key() first")
            return roles.but(changed=roles.changed)

        if self._record(kid).state in ("active", "decrypt-only") and kid != self._roles().primary:
            self._retire(kid)
            self._change_roles(change)

    def mark_compromised(self, kid: str) -> None:
        """Somebody has this data key: from now on `Repository.rotate` alone opens what is under it.

        One that seals has to be rotated first.
        """
        if self._record(kid).purpose != "data":
            raise ConfigurationError(f"{kid} is an index key: replace it, as docs/querying.md says")
        self._bar(kid)
        self._change_state(kid, "compromised")

    def destroy_key(self, kid: str, *, unused_in: Any, even_if_used: bool = False) -> None:
        """Remove the material of a key, for good. Backups of the store still have it.

        ``unused_in``: the collections of a ``MongoClient`` whose documents may be under it, or repositories over them. Raise
        `ConfigurationError`, with their number, if there are any; for a collection that is not there, since it may be misspelt; for
        a key that seals or writes index values; and if keys changed their roles less than ``expire_after`` seconds ago, for a
        process that cannot reach the store may still go by the ones before. ``even_if_used``: destroy it even so, to make
        unreadable what is under it.
        """
        given = [unused_in] if isinstance(unused_in, Collection) or hasattr(unused_in, "_flows") else unused_in
        collections = [_collection_of(each) for each in given]
        if not collections and not even_if_used:
            raise ConfigurationError("unused_in= names the collections whose documents may be under it: [client.crm.customers]")
        record = self._record(kid)
        roles = self._roles()
        if kid in (roles.primary, *roles.written):
            before = "rotate_data_key()" if kid == roles.primary else "another index key takes its place, as docs/querying.md says,"
            raise ConfigurationError(f"{kid} is in use: {before} first")
        if not even_if_used:
            until = max(roles.changed, record.created) + timedelta(seconds=self._expire_after)
            if datetime.now(UTC) < until:
                raise ConfigurationError(
                    f"{kid} may still be in use by a process that cannot reach the store: keys changed their roles less than "
                    f"expire_after ago. It can be destroyed from {until:%Y-%m-%d %H:%M:%S} UTC on"
                )
            name = "kid" if record.purpose == "data" else "idx.kid"
            numbers = {each.full_name: each.count_documents({name: kid}) for each in collections}
            if sum(numbers.values()):
                where = ", ".join(f"{number} of {place}" for place, number in numbers.items() if number)
                raise ConfigurationError(f"documents are still under {kid}: {where}. Repository.rotate() or reindex() moves them")
            if missing := [each.full_name for each in collections if not _is_there(each)]:
                # A misspelt one would count as empty, and this cannot be undone.
                raise ConfigurationError(
                    f"unused_in= names collections that are not there: {', '.join(missing)}. If a name is misspelt, say the right "
                    f"one; otherwise leave it out. {kid} was not destroyed"
                )
        if record.purpose == "data":
            self._bar(kid)
        self._change_state(kid, "destroyed")

    # --- the key-encryption key ---------------------------------------------------------------------------------------

    def rotate_kek(self, kms: KMS) -> None:
        """Wrap the root by another key-encryption key, or anew by the same. Keys and documents stay as they are.

        What was wrapped is unwrapped and compared before it takes the place of the old one. Give all processes the new key
        beforehand, ``kms=[new, old]``: they unwrap again after ``expire_after``.
        """
        [kms] = checked_kms(kms)
        if kms.public and self._expected is None:
            raise ConfigurationError(
                "a key-encryption key of an asymmetric kind wants a store that was opened with its fingerprint"
            )
        before = next((raw for raw in self._storage.read() if identity_of(raw) == "root"), b"")
        created = read_root(before).created
        self._unwrap([before])  # it is the root that is held, or this raises
        wrapped = self._wrapped(self._root, kms)
        renewed = RootRecord(wrapped.store, wrapped.kms, wrapped.wrapped, created)
        if not self._storage.replace(renewed.as_bson(), before):
            raise ConfigurationError("the root was wrapped anew by somebody else at the same time: nothing was changed here")
        self._kms = (kms, *(each for each in self._kms if not is_same(each.identity, kms.identity)))

    # --- index keys ---------------------------------------------------------------------------------------------------

    def add_index_key(self) -> str:
        """Add an index key, under which values are written beside the others; its id. docs/querying.md has the order of steps."""
        key = IndexKey.generate()
        self._insert(KeyRecord.of(key))

        def change(roles: Roles) -> Roles:
            self._check_usable(key.kid, "index")
            return roles.but(search_by=roles.search_by or key.kid, written=written_in_order([*roles.written, key.kid]))

        self._change_roles(change)
        self._check_usable(key.kid, "index")
        return key.kid

    def search_by(self, kid: str) -> None:
        """Search by the values under this index key. `Repository.search_by` says whether all documents have them."""

        def change(roles: Roles) -> Roles:
            if kid not in roles.written:
                raise ConfigurationError(f"no values are written under {_shown(kid)}: add_index_key() makes a key for that")
            return roles.but(search_by=kid)

        self._change_roles(change)

    def write_only(self, kid: str) -> None:
        """Write index values under this index key alone: the one that all processes search by."""

        def change(roles: Roles) -> Roles:
            if kid != roles.search_by:
                raise ConfigurationError(f"searches do not go by {_shown(kid)}: search_by() comes first")
            return roles.but(written=(kid,))

        self._change_roles(change)

    # --- from elsewhere, and to elsewhere -----------------------------------------------------------------------------

    def adopt(self, ring: KeyRing) -> None:
        """Take over the keys and the roles of a `KeyRing`, under their ids: the way from a key file to a store.

        Its primary key goes on sealing, so that processes which still have the file read everything; `rotate_data_key` once none
        has. It can be called again, and then changes no role: what was rotated since stays so. Raise `ConfigurationError` for an id
        that another key has.
        """
        if not isinstance(ring, KeyRing):
            raise ConfigurationError('adopt takes a KeyRing: KeyRing.from_file("keys.json")')
        ring.need("seal", what="adopt")  # of a restricted ring there are no keys to take over
        keys = [key for key in (*ring._keys.values(), *ring._index_keys.values()) if isinstance(key, DataKey | IndexKey)]
        for key in keys:
            opens_only: State = "compromised" if key.kid in ring._compromised else "decrypt-only"
            is_active = isinstance(key, IndexKey) or key.kid == ring.primary
            self._insert(KeyRecord.of(key, "active" if is_active else opens_only), again=True)

        def change(roles: Roles) -> Roles:
            if roles.primary == ring.primary or self._contents.keys[ring.primary].state != "active":
                return roles  # adopted before, and perhaps rotated since
            written = written_in_order(ring._written or roles.written)
            if gone := [kid for kid in written if self._contents.keys[kid].key is None]:
                raise ConfigurationError(f"the ring writes index values under {gone[0]}, which has been destroyed")
            return self._sealing_with(ring.primary, roles).but(search_by=ring.search_key or roles.search_by, written=written)

        self._change_roles(change)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write all records to a new file of mode 0600, as they are: wrapped and sealed. It opens with the same key-encryption key.

        The key service is asked whether it does; what does not open, or is not whole, is refused as it is when it is opened.
        A key that is destroyed later is still in it.
        """
        file, raws = FileStorage(path, self._timeout), self._storage.read()
        self._unwrap(raws)  # or this raises: what does not open is no backup
        sealed, contents = self._consistent(raws)
        if contents.roles is None:
            raise missing_roles()
        if not file.create([raw for raw in raws if identity_of(raw) == "root"] + sealed):
            raise ConfigurationError(f"{file} exists already: a backup is never overwritten")

    # --- one record at a time -----------------------------------------------------------------------------------------

    def _record(self, kid: str) -> KeyRecord:
        self.refresh()
        if kid not in self._contents.keys:
            raise ConfigurationError(f"there is no key {_shown(kid)} in {self._storage}")
        return self._contents.keys[kid]

    def _roles(self) -> Roles:
        roles = self._contents.roles
        if roles is None:
            raise AssertionError  # there would be no ring
        return roles

    def _insert(self, record: KeyRecord, *, again: bool = False) -> None:
        if self._storage.insert(record.sealed(self._root)):
            self.refresh()
            return
        there = self._record(record.kid)
        same = there.purpose == record.purpose and hmac.compare_digest(there.check, record.check)
        if not again or not same:
            raise ConfigurationError(f"there is another key {record.kid}: nothing was changed")

    def _change_roles(self, change: Callable[[Roles], Roles]) -> Roles:
        """The roles as they were before."""
        return self._changed(self._roles, change)

    def _change_state(self, kid: str, state: State) -> None:
        def change(record: KeyRecord) -> KeyRecord:
            if state == record.state:
                return record
            if kid == self._roles().primary:
                raise ConfigurationError(f"{kid} is the primary key, which seals: rotate_data_key() first")
            if kid in self._roles().written:
                raise ConfigurationError(f"index values are written under {kid}: search_by() and write_only() of another one first")
            if state not in _NEXT[record.state]:
                raise ConfigurationError(f"{kid} is {record.state}, and cannot become {state}")
            return record.but(state)

        self._changed(lambda: self._record(kid), change)

    def _changed(self, find: Callable[[], Record], change: Callable[[Record], Record]) -> Record:
        """Change a record by compare-and-set, again if somebody else was first. The record as it was before."""
        self.refresh()
        for _ in range(_TURNS):
            before = find()
            after = change(before)
            if after is before:
                self.refresh()
                return before
            if self._storage.replace(after.sealed(self._root), before.raw):
                self._refresh_and_mend()
                return before
            self.refresh()
        raise KMSError(f"{self._storage} is changed by others all the time: nothing was changed here", temporary=True)

    def _refresh_and_mend(self) -> None:
        """Read again after a change, and take out of the roles what somebody has taken out of use at the same moment (spec 6.5).

        No write covers two records: of those two at least one sees here what the other did. Otherwise the store opened for nobody.
        """
        for _ in range(_TURNS):
            try:
                self.refresh()
            except IntegrityError:
                pass
            else:
                return
            sealed = [raw for raw in self._storage.read() if identity_of(raw) != "root"]
            contents = read_contents(sealed, self._root, also_disagreeing=True)
            if contents.roles is None or (roles := self._mended(contents.roles, contents.keys)) is contents.roles:
                break
            self._storage.replace(roles.sealed(self._root), contents.roles.raw)
        self.refresh()

    def _mended(self, roles: Roles, keys: Mapping[str, KeyRecord]) -> Roles:
        """The same roles, if keys can have them; otherwise without those that cannot, and with a new key that seals."""
        mended = roles
        written = tuple(kid for kid in roles.written if is_usable(kid, "index", keys))
        if written != roles.written:
            search_by = roles.search_by if roles.search_by in written else next(iter(written), None)
            mended = mended.but(search_by=search_by, written=written)
        if not is_usable(roles.primary, "data", keys):
            key = DataKey.generate()
            self._storage.insert(KeyRecord.of(key).sealed(self._root))
            mended = mended.but(primary=key.kid)
        return mended

    def __repr__(self) -> str:
        what = f", store {self.store_id}, {self.held!r}" if self._seen is not None else ": not unlocked"
        return f"{type(self).__name__}({self._storage}{what})"


class CollectionKeyStore(KeyStore):
    """A key store in a collection: ``CollectionKeyStore(client.crm.keys, kms=LocalKMS.from_file("kek.json"))``."""

    def __init__(self, collection: Collection[Any], *, kms: KMS | Sequence[KMS], **options: Unpack[StoreOptions]) -> None:
        """As `KeyStore`, in a collection of a ``MongoClient``: beside an `AsyncRepository`, too."""
        super().__init__(CollectionStorage(collection, options.get("timeout", _TIMEOUT)), kms=kms, **options)

    @classmethod
    async def open(cls, collection: Collection[Any], *, kms: KMS | Sequence[KMS], **options: Unpack[StoreOptions]) -> Self:
        """The same as the constructor, in a thread: for those who run an event loop."""
        return await asyncio.to_thread(lambda: cls(collection, kms=kms, **options))

    @staticmethod
    def restore(collection: Collection[Any], path: str | os.PathLike[str]) -> None:
        """Put the records of a backup into an empty collection. It can be called again if it was interrupted."""
        _restore(CollectionStorage(collection, _TIMEOUT), path)


class FileKeyStore(KeyStore):
    """A key store in a file of mode 0600: ``FileKeyStore("keys.store", kms=LocalKMS.from_env())``."""

    def __init__(self, path: str | os.PathLike[str], *, kms: KMS | Sequence[KMS], **options: Unpack[StoreOptions]) -> None:
        """As `KeyStore`, in a file. Several processes of one machine may use it; a network file system may not lock it."""
        super().__init__(FileStorage(path, options.get("timeout", _TIMEOUT)), kms=kms, **options)

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, kms: KMS | Sequence[KMS], **options: Unpack[StoreOptions]) -> Self:
        """The same as the constructor, in a thread: for those who run an event loop."""
        return await asyncio.to_thread(lambda: cls(path, kms=kms, **options))

    @staticmethod
    def restore(path: str | os.PathLike[str], backup: str | os.PathLike[str]) -> None:
        """Make the file of a backup. Raise `ConfigurationError` if it exists."""
        _restore(FileStorage(path, _TIMEOUT), backup)


def _has(raws: Iterable[bytes], identity: str) -> bool:
    return any(identity_of(raw) == identity for raw in raws)


def _collection_of(given: Any) -> Collection[Any]:
    collection = getattr(getattr(given, "_flows", None), "collection", given)
    if not isinstance(collection, Collection):
        raise ConfigurationError("unused_in= takes collections of a MongoClient, or repositories over one: [client.crm.customers]")
    # Where what was acknowledged last is certain to be counted, whatever the collection is read from otherwise.
    return collection.with_options(read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("local"))


def _is_there(collection: Collection[Any]) -> bool:
    """Asked in a way that takes no more rights than to find in it."""
    return bool(collection.database.list_collection_names(filter={"name": collection.name}, authorizedCollections=True))


def _shown(kid: object) -> str:
    return repr(kid)[:40]


def _restore(storage: Storage, path: str | os.PathLike[str]) -> None:
    """The root last: without it the store does not open, so what is there half can be done again."""
    backup = FileStorage(path, _TIMEOUT)
    records = sorted(backup.read(), key=lambda raw: identity_of(raw) == "root")
    if not records:
        raise ConfigurationError(f"there is no backup in {backup}")
    if foreign := [raw for raw in storage.read() if raw not in records]:
        raise ConfigurationError(f"{storage} holds {len(foreign)} other records: a backup is restored into an empty place")
    for raw in records:
        storage.insert(raw)
