"""The ring that holds data keys and index keys: looked up by id, never tried in turn.

A `KeyRing` holds several data keys, one of which is *primary*: the one that seals. All of them open. `envelope` asks the ring for
working keys; nobody else sees material.

An index key is a key of its own because it is replaced at another time. Of those in a ring one is *searched* by, and values are
*written* under one or more; docs/querying.md says how one takes the place of another.

A restricted ring (`KeyRing.restrict`) holds what was derived from these keys for some contexts, and not the keys: it verifies, or
makes the values that searches ask for, and cannot do more. docs/capabilities.md says what its holder can do with it.

Python cannot erase memory. What can be done is done: a repr shows no material, and a ring refuses pickle and copy, so
that a key does not wander into a cache, a queue or a crash report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from . import keyfile, primitives
from .datakey import (
    DataKey,
    IndexKey,
    SearchingKey,
    VerifyingKey,
    WorkingKeys,
    _Key,
    _RestrictedKey,
    check_context,
    is_kid,
)
from .errors import ConfigurationError, KeyUnavailableError, MissingCapabilityError, UnknownKeyError, shortened
from .private_file import create_private, read_private

__all__ = ["Capability", "KeyRing"]

#: What a ring can be restricted to.
Capability = Literal["verify", "metadata", "search"]
_RESTRICTED: Final[frozenset[str]] = frozenset(get_args(Capability))
#: What a whole ring can do.
_WHOLE: Final = _RESTRICTED | {"open", "seal"}


class KeyRing(primitives.NeverLeaves):
    """Data keys by id, of which the primary one seals and all open; and index keys, if there are blind indexes.

    ``KeyRing.from_file("keys.json", create=True)`` for a first service, `from_env` for a container, ``generate()`` for
    a test. A ring does not change: adding a key makes another ring.
    """

    __slots__ = (
        "_authenticators",
        "_capabilities",
        "_compromised",
        "_contexts",
        "_destroyed",
        "_index_keys",
        "_keys",
        "_made",
        "_primary",
        "_search_by",
        "_too_old",
        "_working",
        "_written",
        "proved",
    )

    def __init__(
        self,
        keys: Iterable[DataKey | VerifyingKey],
        *,
        primary: str | None = None,
        index_keys: Iterable[IndexKey | SearchingKey] = (),
        search_by: str | None = None,
        written: Iterable[str] | None = None,
        compromised: Iterable[str] = (),
        destroyed: Iterable[str] = (),
        too_old: str | None = None,
        capabilities: Iterable[str] | None = None,
    ) -> None:
        """Hold ``keys``; ``primary`` is the id of the one that seals (default: the first).

        ``index_keys``: those of blind indexes. ``search_by``: the id of the one that searches go by (default: the first);
        ``written``: the ids of those under which values are written (default: all). What a key store knows beside:
        ``compromised``: the ids of keys that open inside `Repository.rotate` alone; ``destroyed``: of those that are no more;
        ``too_old``: why the primary key does not seal any longer. ``capabilities``: of a restricted ring, whose keys are
        restricted, too, and of which none seals; `restrict` makes one.

        Raise `ConfigurationError` for no data key, an id twice, or a role of a key that is not among them.
        """
        self._capabilities = _WHOLE if capabilities is None else _checked(capabilities)
        kinds: tuple[Any, Any] = (DataKey, IndexKey) if capabilities is None else (VerifyingKey, SearchingKey)
        # A restricted key has the methods of a whole one, of which some only say what is missing.
        self._keys: dict[str, DataKey | VerifyingKey] = _by_id(keys, kinds[0])
        self._index_keys: dict[str, IndexKey | SearchingKey] = _by_id(index_keys, kinds[1])
        if not self._keys and "verify" in self._capabilities:
            raise ConfigurationError("a KeyRing needs at least one key: KeyRing.generate() makes one")
        self._contexts = None if capabilities is None else self._restricted_contexts()
        if twice := self._keys.keys() & self._index_keys.keys():
            raise ConfigurationError(f"the key id {min(twice)!r} occurs twice: an id names one key, for ever")
        self._primary = _chosen(primary, self._keys, "primary key") if capabilities is None else ""
        self._search_by = None
        if self._index_keys or search_by is not None:
            self._search_by = _chosen(search_by, self._index_keys, "index key to search by")
        self._written = tuple(self._index_keys if written is None else written)
        for kid in self._written:
            _chosen(kid, self._index_keys, "index key to write values under")
        if len(set(self._written)) != len(self._written):
            raise ConfigurationError("written: an index key is named twice")
        if self._index_keys and self._search_by not in self._written:
            raise ConfigurationError("values must be written under the index key that searches go by: otherwise nothing is found")
        self._compromised, self._destroyed, self._too_old = frozenset(compromised), frozenset(destroyed), too_old
        if self._primary in self._compromised:
            raise ConfigurationError(f"the primary key {self._primary} is compromised: another one has to seal")
        self._made = False
        #: Of a ring that was made a moment ago: the collections that have been looked at for documents under other keys.
        self.proved: set[str] = set()
        self._working: dict[tuple[str, str], WorkingKeys] = {}
        self._authenticators: dict[tuple[str, str], primitives.Authenticator] = {}

    @classmethod
    def generate(cls) -> KeyRing:
        """A ring of one new data key and one new index key, kept nowhere: for tests, and to be lost with the process."""
        return cls([DataKey.generate()], index_keys=[IndexKey.generate()])

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, create: bool = False) -> KeyRing:
        """Read a key file; with ``create``, make it first if it is not there: mode 0600, whole or not at all.

        Raise `ConfigurationError` if it is missing, unreadable, damaged, or (POSIX) open to other users. Whoever reads this
        file reads the data; without it the data is lost. Keep it out of the repository and in a backup of its own.
        """
        missing = (
            "If there are data already, bring it back from its backup; for a new database, from_file(…, create=True) makes one"
        )
        made: list[bool] = []

        def make() -> bytes:
            made.append(True)
            return cls.generate()._as_json()

        parsed = keyfile.parsed(read_private(path, "key file", make=make if create else None, missing=missing), cls)
        ring = _ring_or_error(parsed, f"the key file {str(path)!r}")
        ring._made = bool(made)
        return ring

    @classmethod
    def from_env(cls, name: str = "MONGO_ENVELOPE_KEYS") -> KeyRing:
        """Read the ring from an environment variable that holds what a key file holds (JSON, one line will do).

        ``MONGO_ENVELOPE_KEYS="$(cat keys.json)"``. Raise `ConfigurationError` if it is not set or damaged.
        """
        if name.lstrip().startswith("{"):
            raise ConfigurationError("from_env takes the name of an environment variable, and was given its content, it seems")
        if name not in os.environ:
            raise ConfigurationError(f"the environment variable {name} is not set: it holds what a key file holds")
        return _ring_or_error(
            keyfile.parsed(os.environ[name].encode(errors="surrogateescape"), cls), f"the environment variable {name}"
        )

    def to_file(self, path: str | os.PathLike[str]) -> None:
        """Write the ring, material included, as a new key file of mode 0600. Raise `ConfigurationError` if it exists.

        Of a restricted ring the file holds what the ring holds, and `from_file` gives a restricted ring back.
        """
        if not create_private(Path(path), self._as_json(), "key file"):
            raise ConfigurationError(f"{str(path)!r} exists already: a key file is never overwritten")

    def restrict(self, *capabilities: Capability, contexts: Sequence[str]) -> KeyRing:
        """Another ring, which can do less, and only in these contexts (of a repository: by default the collection's name).

        "verify": check that documents are genuine. "metadata": that, and read what stands in the clear. "search": make the values
        that searches on blind indexes ask for. It holds the keys for that, and nothing that others could be derived from; whoever
        can verify can also forge, though: docs/capabilities.md says what the holder of each can do. Of a restricted ring it makes
        one that can do still less.

        Raise `ConfigurationError` for other capabilities, or what is no context; `MissingCapabilityError` for what this ring lacks.
        """
        if isinstance(contexts, str):
            raise ConfigurationError(f"contexts= takes several contexts: contexts=[{shortened(contexts)}]")
        if not isinstance(contexts, Iterable) or not (names := [*dict.fromkeys(map(check_context, contexts))]):
            raise ConfigurationError('contexts= takes one context or more, in a list: contexts=["customers"]')
        wanted = _checked(capabilities)
        for capability in sorted(wanted):
            self.need(capability, what=f"a ring with {capability}")
        keys = [key for kid, key in self._keys.items() if kid not in self._compromised | self._destroyed]
        searches = "search" in wanted
        if searches and not self._index_keys:
            raise ConfigurationError("this ring has no index key, so that there is nothing to search with")
        return KeyRing(
            [key.restricted(names) for key in keys] if "verify" in wanted else (),
            index_keys=[key.restricted(names) for key in self._index_keys.values()] if searches else (),
            search_by=self._search_by if searches else None,
            written=self._written if searches else None,
            compromised=self._compromised,
            destroyed=self._destroyed,
            capabilities=wanted,
        )

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, of "open", "seal", "verify", "metadata" (which "verify" is part of) and "search"."""
        return self._capabilities

    @property
    def contexts(self) -> tuple[str, ...] | None:
        """Those that a restricted ring is for; None of a whole ring, which is for all."""
        return self._contexts

    def need(self, *any_of: str, what: str) -> None:
        """Raise `MissingCapabilityError` unless the ring has one of these capabilities. ``what``: that takes it, in words."""
        if self._capabilities.isdisjoint(any_of):
            raise MissingCapabilityError(
                f"{what} takes the capability {' or '.join(map(repr, any_of))}, and this ring is restricted to "
                f"{', '.join(map(repr, sorted(self._capabilities)))}"
            )

    def need_context(self, context: str) -> None:
        """Raise `MissingCapabilityError` if the ring is restricted to others."""
        if self._contexts is not None:
            key = next(iter([*self._keys.values(), *self._index_keys.values()]))
            key.restricted([context])

    def with_key(self, key: DataKey, *, primary: bool = True) -> KeyRing:
        """Another ring that holds this key too and, unless told otherwise, seals with it."""
        self._check_whole()
        return self._but(keys=[*self._keys.values(), key], primary=getattr(key, "kid", None) if primary else self._primary)

    def with_primary(self, kid: str) -> KeyRing:
        """Another ring of the same keys that seals with this one. Raise `ConfigurationError` if it is not in the ring."""
        self._check_whole()
        return self._but(primary=kid)

    def without_key(self, kid: str | DataKey) -> KeyRing:
        """Another ring without this data key. `Repository.retire_data_key` gives it once no document is under it.

        Raise `ConfigurationError` for the primary one.
        """
        self._check_whole()
        kid = _chosen(kid, self._keys, "data key")
        if kid == self._primary:
            raise ConfigurationError(f"{kid} is the primary key, which seals: with_primary(…) of another one comes first")
        keys = [key for key in self._keys.values() if key.kid != kid]
        return self._but(keys=keys, compromised=self._compromised - {kid})

    def with_index_key(self, key: IndexKey) -> KeyRing:
        """Another ring that writes index values under this key too. The first index key is also the one that searches go by."""
        self._check_whole()
        if not isinstance(key, IndexKey):
            raise ConfigurationError("with_index_key takes an IndexKey: IndexKey.generate()")
        written = (*self._written, key.kid)
        return self._but(index_keys=[*self._index_keys.values(), key], search_by=self._search_by or key.kid, written=written)

    def searching_by(self, kid: str | IndexKey) -> KeyRing:
        """Another ring that searches by the values under this index key, and writes under the same ones as before.

        `Repository.search_by` gives it once every document of a collection has these values; before that, searches would miss some.
        """
        return self._but(search_by=_chosen(kid, self._index_keys, "index key to search by"))

    def writing_only(self, kid: str | IndexKey) -> KeyRing:
        """Another ring that writes index values under this key alone. It must be the one that searches go by, in every process."""
        self._check_whole()
        return self._but(written=(_chosen(kid, self._index_keys, "index key to write values under"),))

    def without_index_key(self, kid: str | IndexKey) -> KeyRing:
        """Another ring without this index key. `Repository.retire_index_key` gives it once no document has values under it.

        Raise `ConfigurationError` if values are still written under it.
        """
        kid = _chosen(kid, self._index_keys, "index key")
        if kid in self._written:
            raise ConfigurationError(
                f"values are still written under the index key {kid}: writing_only(…) of another one comes first"
            )
        return self._but(index_keys=[key for key in self._index_keys.values() if key.kid != kid])

    def _but(self, **changes: Any) -> KeyRing:
        same: dict[str, Any] = {
            "keys": self._keys.values(),
            "primary": self._primary,
            "index_keys": self._index_keys.values(),
            "search_by": self._search_by,
            "written": self._written,
            "compromised": self._compromised,
            "destroyed": self._destroyed,
            "too_old": self._too_old,
        }
        if self._contexts is not None:
            same |= {"primary": None, "capabilities": self._capabilities}
        return KeyRing(**(same | changes))

    def _restricted_contexts(self) -> tuple[str, ...]:
        """Those of the keys, which are what the capabilities say."""
        keys: list[Any] = [*self._keys.values(), *self._index_keys.values()]
        if (bool(self._keys), bool(self._index_keys)) != ("verify" in self._capabilities, "search" in self._capabilities):
            raise ConfigurationError("a restricted ring holds the keys that its capabilities take, and no others")
        contexts: tuple[str, ...] = keys[0].contexts
        if any(key.contexts != contexts for key in keys):
            raise ConfigurationError("the keys of a restricted ring are for the same contexts, in the same order")
        return contexts

    def _check_whole(self) -> None:
        if self._contexts is not None:
            raise ConfigurationError("a restricted ring takes no keys and writes nothing: change the whole ring, and restrict that")

    @property
    def made(self) -> bool:
        """Whether it was made by `from_file` a moment ago, and nothing can be sealed under it yet."""
        return self._made

    @property
    def destroyed(self) -> frozenset[str]:
        """The ids of keys that are no more, as far as a key store knows of them."""
        return self._destroyed

    @property
    def primary(self) -> str:
        """The id of the key that seals. Raise `MissingCapabilityError` if the ring is restricted: none does."""
        self.need("seal", what="sealing")
        return self._primary

    @property
    def search_key(self) -> str | None:
        """The id of the index key that searches go by; None if there is no index key."""
        return self._search_by

    @property
    def index_keys(self) -> tuple[str, ...]:
        """The ids of all index keys."""
        return tuple(self._index_keys)

    @property
    def written_index_keys(self) -> tuple[str, ...]:
        """The ids of the index keys under which values are written, in bytewise order, as they stand in ``idx.kid``."""
        return tuple(sorted(self._written))

    def index_key(self, kid: str) -> IndexKey | SearchingKey:
        """One index key. Raise `UnknownKeyError` if the ring does not hold it."""
        self.need("search", what="the value of a blind index")
        if kid not in self._index_keys:
            raise UnknownKeyError(
                "index values under a key that is not in this ring; idx.kid says which. Load the key file, or open the key store, "
                "that was in use then"
            )
        return self._index_keys[kid]

    def for_rotation(self) -> KeyRing:
        """Another ring in which compromised keys open, too: for those who seal anew what they open, and give it to nobody."""
        self.need("seal", what="rotation")
        return self._but(compromised=())

    def sealing_keys(self, context: str) -> WorkingKeys:
        """The working keys of the primary key in one context. Raise `KeyUnavailableError` if it is too old to seal."""
        self.need("seal", what="sealing")
        if self._too_old is not None:
            raise KeyUnavailableError(self._too_old)
        return self.working_keys(self._primary, context)

    def working_keys(self, kid: str, context: str) -> WorkingKeys:
        """The working keys of one data key in one context. Raise `UnknownKeyError` if the ring does not hold it."""
        cached = self._working.get((kid, context))
        if cached is not None:
            return cached
        self.need("open", what="opening a document")
        return self._working.setdefault((kid, context), self._data_key(kid).working_keys(context))

    def authenticator(self, kid: str, context: str) -> primitives.Authenticator:
        """What verifies the documents of one data key in one context, and can do no more. Raise `UnknownKeyError`."""
        whole = self._working.get((kid, context))
        if whole is not None:
            return whole.authenticator
        cached = self._authenticators.get((kid, context))
        if cached is not None:
            return cached
        self.need("verify", what="verifying a document")
        return self._authenticators.setdefault((kid, context), self._data_key(kid).authenticator(context))

    def _data_key(self, kid: str) -> DataKey | VerifyingKey:
        if kid in self._compromised:
            raise UnknownKeyError(
                f"sealed under {kid}, which is marked as compromised: whoever has it can forge documents. Only rotate() opens them"
            )
        if kid in self._destroyed:
            raise UnknownKeyError(f"sealed under {kid}, which has been destroyed: nobody can open this document any more")
        key = self._keys.get(kid)
        if key is None:
            raise UnknownKeyError(
                f"sealed under a key that is not in this ring, which holds {', '.join(self._keys)}; its kid says which. "
                "Load the key file, or open the key store, that was in use then"
            )
        return key

    def __contains__(self, kid: object) -> bool:
        return kid in self._keys

    def __iter__(self) -> Iterator[str]:
        """The ids, in the order in which the keys were added."""
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        index = f"; index keys {', '.join(self._index_keys)}; searching by {self._search_by}" if self._index_keys else ""
        role = f"primary {self._primary}" if self._contexts is None else f"restricted to {', '.join(sorted(self._capabilities))}"
        return f"KeyRing({', '.join(self._keys)}; {role}{index})"

    def _as_json(self) -> bytes:
        content: dict[str, Any] = {"version": 1, "primary": self._primary, "keys": [*self._keys.values()]}
        index = {"index_keys": [*self._index_keys.values()], "search_by": self._search_by, "written": self._written}
        if self._contexts is not None:
            del content["primary"]
            content |= {"version": 3, "capabilities": sorted(self._capabilities), "contexts": self._contexts} | index
        elif self._index_keys:
            content |= {"version": 2} | index
        return keyfile.written_out(content)


def _checked(capabilities: Iterable[str]) -> frozenset[str]:
    """Those of a restricted ring, with what they bring along. Raise `ConfigurationError`."""
    wanted = [*capabilities]
    if not wanted or not all(isinstance(each, str) and each in _RESTRICTED for each in wanted):
        raise ConfigurationError('a ring is restricted to one or more of "verify", "metadata" and "search"')
    return frozenset(wanted) | ({"verify"} if "metadata" in wanted else set())


def _by_id(keys: Iterable[Any], kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in keys:
        if not isinstance(key, kind):
            if issubclass(kind, _RestrictedKey):
                raise ConfigurationError("a restricted ring holds restricted keys: keys.restrict(…) of a whole one makes it")
            name = kind.__name__
            raise ConfigurationError(f"a KeyRing holds {name} objects here: {name}.generate(), or {name}(kid, 32 bytes)")
        if key.kid in found:
            raise ConfigurationError(f"the key id {key.kid!r} occurs twice: an id names one key, for ever")
        found[key.kid] = key
    return found


def _chosen(kid: str | _Key | None, keys: Mapping[str, Any], what: str) -> str:
    """The id, or that of the first key; `ConfigurationError` if there is none of this id."""
    kid = kid.kid if isinstance(kid, _Key) else kid
    chosen = next(iter(keys), "") if kid is None else kid
    if not is_kid(chosen) or chosen not in keys:
        # 32 bytes in hexadecimal are 64 characters that a key id may have.
        which = "(not even a key id)" if not is_kid(kid) else shortened(kid) if len(str(kid)) < 40 else "(a long one, not shown)"
        raise ConfigurationError(f"the {what} {which} is not in the ring")
    return chosen


def _ring_or_error(ring: KeyRing | str, what: str) -> KeyRing:
    if isinstance(ring, str):
        raise ConfigurationError(f"{what} {ring}")
    return ring
