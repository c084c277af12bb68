"""The records of a key store, as bytes: its root, its keys, and which key has which role. Pure; spec/keystore-v1.md is the text.

    root    {_id: "root", version, store, kms, wrapped, created}            wrapped by a key-encryption key
    <kid>   {_id, purpose, state, created, check} + {"material": …}         a document of format v1, sealed under the root
    roles   {_id: "roles", primary, search_by, written, changed} + {}       likewise

So id, purpose and state of a key are bound to its material by the same tag as everything else, and what is changed is changed by
compare-and-set. `keystore` reads and writes these records, `storage` keeps them.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import bson
from bson.errors import BSONError

from . import envelope, primitives
from .datakey import DataKey, IndexKey, is_kid
from .errors import (
    ConfigurationError,
    EnvelopeError,
    IntegrityError,
    KeyUnavailableError,
    MalformedEnvelopeError,
    UnsupportedVersionError,
)
from .keys import KeyRing

__all__ = [
    "Contents",
    "KeyRecord",
    "Purpose",
    "Roles",
    "Root",
    "RootRecord",
    "State",
    "is_same",
    "is_usable",
    "missing_roles",
    "read_contents",
    "read_root",
    "written_in_order",
]

Purpose = Literal["data", "index"]
State = Literal["active", "decrypt-only", "compromised", "destroyed"]

_ROOT: Final = "root"
_ROLES: Final = "roles"
_STORE: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_FINGERPRINT_BYTES: Final = 16
_CHECK_BYTES: Final = 8
_KINDS: Final[Mapping[str, type[DataKey | IndexKey]]] = {"data": DataKey, "index": IndexKey}
#: purpose → the states that such a key can be in
_STATES: Final = {
    "data": ("active", "decrypt-only", "compromised", "destroyed"),
    "index": ("active", "destroyed"),
}
_PAYLOAD: Final = re.compile(rb'\{"material":"([A-Za-z0-9+/]{43}=)"\}')


class Root(primitives.NeverLeaves):
    """The one secret of a key store, under which its other records are sealed."""

    __slots__ = ("_material", "context", "fingerprint", "ring", "store")

    def __init__(self, store: str, material: bytes) -> None:
        """Take the store's id, 16 hex digits, and 32 bytes."""
        self.store: Final = store
        self._material: Final = material
        self.ring: Final = KeyRing([DataKey(_ROOT, material)])
        self.context: Final = f"mongo_envelope/keys/{store}"
        self.fingerprint: Final = primitives.derive(material, "fingerprint")[:_FINGERPRINT_BYTES]

    @classmethod
    def generate(cls) -> Root:
        """A new one, of a new store."""
        return cls(secrets.token_hex(8), secrets.token_bytes(primitives.KEY_BYTES))

    @classmethod
    def of_secret(cls, secret: bytes, store: str) -> Root | None:
        """What a key-encryption key has unwrapped, if it is the root of this store: the secret says of which it is."""
        head, material = secret[: -primitives.KEY_BYTES], secret[-primitives.KEY_BYTES :]
        return cls(store, material) if hmac.compare_digest(head, _head_of_secret(store)) else None

    @property
    def secret(self) -> bytes:
        """What a key-encryption key wraps: the root, and which store's it is."""
        return _head_of_secret(self.store) + self._material

    def __repr__(self) -> str:
        return f"Root({self.store})"


def _head_of_secret(store: str) -> bytes:
    parts = (b"mongo_envelope/v1", b"root", store.encode())
    return primitives.pack(*parts) + primitives.KEY_BYTES.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class RootRecord:
    """The wrapped root, as it is stored. Nothing verifies it but what is made of it."""

    store: str
    kms: Mapping[str, Any]  #: the identity of the key-encryption key
    wrapped: bytes
    created: datetime

    @property
    def id(self) -> str:
        """Of the record."""
        return _ROOT

    def as_bson(self) -> bytes:
        """As it is stored."""
        names = {"_id": _ROOT, "version": 1, "store": self.store, "kms": dict(self.kms)}
        return bson.encode({**names, "wrapped": self.wrapped, "created": self.created}, codec_options=envelope.CODEC_OPTIONS)


def is_same(one: object, other: object) -> bool:
    """Whether two identities are equal as BSON: for Python, True is 1 and 1.0."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    return _kind(one) is _kind(other) and one == other


def _kind(value: object) -> type:
    return int if isinstance(value, int) and not isinstance(value, bool) else type(value)


def read_root(raw: bytes) -> RootRecord:
    """The root record of a store. Raise `MalformedEnvelopeError`, or `UnsupportedVersionError` for one of another version."""
    try:
        envelope._walk(raw, {})  # no name twice: of two equal ones a decoder takes this one or that one
        document = bson.decode(raw, envelope.CODEC_OPTIONS)
    except (BSONError, MalformedEnvelopeError):
        document = {}
    version = document.get("version")
    if type(version) is int and version != 1:
        raise UnsupportedVersionError("the key store is of another version than 1").about(document_id=_ROOT)
    types = {"_id": str, "version": int, "store": str, "kms": dict, "wrapped": bytes, "created": datetime}
    fits = document.keys() == types.keys() and all(type(document[name]) is kind for name, kind in types.items())
    if not fits or not _STORE.fullmatch(document["store"]):
        raise MalformedEnvelopeError("the root record of the key store is not one of version 1").about(document_id=_ROOT)
    return RootRecord(document["store"], document["kms"], document["wrapped"], document["created"])


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key of a store."""

    kid: str
    purpose: Purpose
    state: State
    created: datetime
    check: bytes
    key: DataKey | IndexKey | None  #: none of a key that has been destroyed
    raw: bytes = b""  #: as it is stored, if it is

    @classmethod
    def of(cls, key: DataKey | IndexKey, state: State = "active") -> KeyRecord:
        """A new record of a key."""
        purpose: Purpose = "data" if isinstance(key, DataKey) else "index"
        return cls(key.kid, purpose, state, key.created or _now(), key.check, key)

    @property
    def id(self) -> str:
        """Of the record."""
        return self.kid

    def but(self, state: State) -> KeyRecord:
        """The same key in another state; a destroyed one is no key any more."""
        return replace(self, state=state, key=None if state == "destroyed" else self.key, raw=b"")

    def sealed(self, root: Root) -> bytes:
        """As it is to be stored. Raise `ConfigurationError` for an id that a key of a store cannot have."""
        if self.kid in (_ROOT, _ROLES):
            raise ConfigurationError(f"a key of a key store cannot have the id {self.kid!r}")
        payload = {} if self.key is None else {"material": base64.b64encode(self.key._material).decode()}
        names = {"_id": self.kid, "purpose": self.purpose, "state": self.state, "created": self.created, "check": self.check}
        return _sealed(names, json.dumps(payload, separators=(",", ":")).encode(), root)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which data key seals, which index key searches go by, and under which ones values are written."""

    primary: str
    search_by: str | None
    written: tuple[str, ...]
    changed: datetime
    raw: bytes = b""  #: as it is stored, if it is

    @property
    def id(self) -> str:
        """Of the record."""
        return _ROLES

    def but(self, **roles: Any) -> Roles:
        """Others, from now on."""
        return replace(self, **{"changed": _now(), "raw": b"", **roles})

    def sealed(self, root: Root) -> bytes:
        """As they are to be stored."""
        names = {"_id": _ROLES, "primary": self.primary, "search_by": self.search_by, "written": sorted(self.written)}
        return _sealed({**names, "changed": self.changed}, b"{}", root)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a key store holds: verified, and free of contradictions."""

    keys: Mapping[str, KeyRecord]
    roles: Roles | None  #: none while the store is being made

    def ring(self, too_old: str | None = None) -> KeyRing:
        """What it unlocks. Raise `IntegrityError` if there is nothing that says which key seals."""
        if self.roles is None:
            raise missing_roles()
        found = [each for each in self.keys.values() if each.key is not None]
        return KeyRing(
            [each.key for each in found if isinstance(each.key, DataKey)],
            primary=self.roles.primary,
            # Where nothing is searched by, an index key is one that somebody is about to give its role.
            index_keys=[each.key for each in found if isinstance(each.key, IndexKey) and self.roles.search_by is not None],
            search_by=self.roles.search_by,
            written=self.roles.written,
            compromised=self._in_state("compromised"),
            destroyed=self._in_state("destroyed"),
            too_old=too_old,
        )

    def _in_state(self, state: State) -> list[str]:
        return [kid for kid, each in self.keys.items() if each.state == state]


def missing_roles() -> ConfigurationError:
    """Nothing says which key seals."""
    return ConfigurationError(
        "the roles record of the key store is missing: if the store was never finished, create=True does that; otherwise restore "
        "it from a backup"
    )


def read_contents(raws: Iterable[bytes], root: Root, *, also_disagreeing: bool = False) -> Contents:
    """All records but that of the root, each verified under it.

    Raise `EnvelopeError`, which names the record, for one that was edited, moved or put there by somebody else, an id that is there
    twice, and, unless they are to be mended, roles of a key that cannot have them.
    """
    keys: dict[str, KeyRecord] = {}
    roles: Roles | None = None
    for raw in raws:
        record = _read(raw, root)
        if isinstance(record, Roles):
            if roles is not None:
                raise _contradiction(_ROLES, "is there twice")
            roles = record
        elif keys.setdefault(record.kid, record) is not record:
            raise _contradiction(record.kid, "is there twice")
    if roles is not None and not also_disagreeing:
        _check_roles(roles, keys)
    return Contents(keys, roles)


def _read(raw: bytes, root: Root) -> KeyRecord | Roles:
    identity = envelope.identify(raw)
    try:
        opened = envelope.open(raw, keys=root.ring, context=root.context)
    except KeyUnavailableError:
        opened = None
    except EnvelopeError as error:
        error.about(document_id=identity)
        raise
    if opened is None:
        raise _contradiction(identity, "is not sealed under the store's root")
    document = {name: value for name, value in opened.document.items() if name not in _OWN}
    record = _roles(document, opened.payload, raw) if identity == _ROLES else _key(document, opened.payload, raw)
    if record is None:
        raise _contradiction(identity, "is not as its kind prescribes")
    return record


_OWN: Final = envelope.RESERVED - {"_id", "idx"}


def _key(document: Mapping[str, Any], payload: bytes, raw: bytes) -> KeyRecord | None:
    types = {"_id": (str,), "purpose": (str,), "state": (str,), "created": (datetime,), "check": (bytes,)}
    if not _fits(document, types):
        return None
    kid, purpose, state, check = (document[name] for name in ("_id", "purpose", "state", "check"))
    material = _PAYLOAD.fullmatch(payload)
    if not is_kid(kid) or kid == _ROOT or len(check) != _CHECK_BYTES or state not in _STATES.get(purpose, ()):
        return None
    if state == "destroyed":
        return KeyRecord(kid, purpose, state, document["created"], check, None, raw) if payload == b"{}" else None
    try:
        key = _KINDS[purpose](kid, base64.b64decode(material[1], validate=True), created=document["created"], check=check)  # type: ignore[index]  # no match: TypeError
    except (TypeError, ValueError, ConfigurationError):
        return None
    return KeyRecord(kid, purpose, state, document["created"], check, key, raw)


def _roles(document: Mapping[str, Any], payload: bytes, raw: bytes) -> Roles | None:
    types = {"_id": (str,), "primary": (str,), "search_by": (str, type(None)), "written": (list,), "changed": (datetime,)}
    if not _fits(document, types) or payload != b"{}":
        return None
    primary, search_by, written = document["primary"], document["search_by"], document["written"]
    if not all(isinstance(kid, str) for kid in written) or written != sorted(set(written)):
        return None
    return Roles(primary, search_by, tuple(written), document["changed"], raw)


def _fits(document: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> bool:
    return document.keys() == types.keys() and all(type(document[name]) in kinds for name, kinds in types.items())


def is_usable(kid: str, purpose: Purpose, keys: Mapping[str, KeyRecord]) -> bool:
    """Whether roles may name this key.

    A key becomes decrypt-only before another one seals in its place: roles and states are two records, written one by one.
    """
    record = keys.get(kid)
    return record is not None and record.purpose == purpose and record.state in ("active", "decrypt-only")


def _check_roles(roles: Roles, keys: Mapping[str, KeyRecord]) -> None:
    if not is_usable(roles.primary, "data", keys):
        raise _contradiction(_ROLES, "names a primary key that is missing, compromised or destroyed")
    if not all(is_usable(kid, "index", keys) for kid in roles.written):
        raise _contradiction(_ROLES, "names a written index key that is missing or destroyed")
    if roles.search_by not in (roles.written or (None,)):
        raise _contradiction(_ROLES, "names an index key to search by under which nothing is written")


def _contradiction(identity: Any, problem: str) -> IntegrityError:
    """Only a holder of the root can have written such a record, or somebody has put it there."""
    return IntegrityError(f"a record of the key store {problem}. Restore the store from a backup").about(document_id=identity)


def _sealed(names: Mapping[str, Any], payload: bytes, root: Root) -> bytes:
    return envelope.seal(names, payload, keys=root.ring, context=root.context)


def _now() -> datetime:
    """As BSON keeps it: milliseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def written_in_order(kids: Sequence[str]) -> tuple[str, ...]:
    """As they stand in a roles record: each once, in bytewise order."""
    return tuple(sorted(set(kids)))
