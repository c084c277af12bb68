"""A second, independent implementation of key stores and key files, written from ``keystore-v1.md`` alone.

Plain and slow on purpose, as ``reference.py``, on which it stands. It imports nothing of the library.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import bson
import reference
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from reference import Fields, pack

PURPOSES = ("data", "index")
STATES = {"data": ("active", "decrypt-only", "compromised", "destroyed"), "index": ("active", "destroyed")}
#: state of a data key → the states that may follow; an index key goes from active to destroyed at once
TRANSITIONS = {
    "data": {
        "active": {"decrypt-only", "compromised"},
        "decrypt-only": {"compromised", "destroyed"},
        "compromised": {"destroyed"},
        "destroyed": set(),
    },
    "index": {"active": {"destroyed"}, "destroyed": set()},
}
ROOT, ROLES = "root", "roles"
STORE = re.compile(r"[0-9a-f]{16}", re.ASCII)
BASE64 = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)
PAYLOAD = re.compile(rb"\{\"material\":\"([A-Za-z0-9+/]{43}=)\"\}")
CHECK = re.compile(r"[0-9a-f]{16}", re.ASCII)
KID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
LOCAL = b"mongo_envelope/kms/local/1"

STRING, DOCUMENT, ARRAY, BINARY, BOOLEAN, DATE, NULL, INT32, INT64 = 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0A, 0x10, 0x12
VERSION_ELEMENT = b"\x10version\0" + b"\x01\0\0\0"
ENVELOPE = {b"data", b"iv", b"kid", b"v", b"hmac"}
MILLISECONDS = DatetimeConversion.DATETIME_MS
AS_STORED: CodecOptions[Fields] = CodecOptions(uuid_representation=reference.UUIDS, datetime_conversion=MILLISECONDS)
CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, uuid_representation=reference.UUIDS, datetime_conversion=MILLISECONDS
)


class KeyStoreError(Exception):
    """One of the errors of section 4; the name of the class is the one that the text gives."""


class Incomplete(KeyStoreError):
    """Steps 1 and 10: nothing there, or not made to the end."""


class MalformedFile(KeyStoreError):
    """Section 7: not a file of a key store."""


class MalformedRecord(KeyStoreError):
    """Steps 1, 3 and 9.1: not a record of a key store."""


class UnsupportedVersion(KeyStoreError):
    """Steps 2 and 9.1: another version, or none."""


class NoFingerprint(KeyStoreError):
    """Step 4: the key-encryption key is public, and no fingerprint is configured."""


class ForeignKey(KeyStoreError):
    """Step 5: wrapped by a key-encryption key that is not the configured one."""


class Unwrap(KeyStoreError):
    """Step 6: the key-encryption key refused."""


class WrongRoot(KeyStoreError):
    """Step 7: a secret, but not that of this store."""


class WrongFingerprint(KeyStoreError):
    """Step 8: a root, but not the one that was meant."""


class Integrity(KeyStoreError):
    """Step 9.1: a record was changed, or is of another store."""


class InvalidRecord(KeyStoreError):
    """Steps 9.1 and 9.2: genuine, but not as the text says."""


class Contradiction(KeyStoreError):
    """Steps 1 and 11: records that do not fit each other."""


#: error → what the Python library raises
IN_THE_LIBRARY = {
    MalformedFile: "MalformedEnvelopeError",
    MalformedRecord: "MalformedEnvelopeError",
    Incomplete: "ConfigurationError",
    UnsupportedVersion: "UnsupportedVersionError",
    NoFingerprint: "ConfigurationError",
    ForeignKey: "ConfigurationError",
    Unwrap: "KMSError",
    WrongRoot: "IntegrityError",
    WrongFingerprint: "IntegrityError",
    Integrity: "IntegrityError",
    InvalidRecord: "IntegrityError",
    Contradiction: "IntegrityError",
}


# --- section 3: wrapping --------------------------------------------------------------------------------------------


def secret_of(store: str, root: bytes) -> bytes:
    """What a key-encryption key wraps: 85 bytes."""
    if STORE.fullmatch(store) is None or len(root) != 32:
        raise ValueError("a store is 16 hexadecimal digits, a root 32 bytes")
    return pack(reference.LABEL, b"root", store.encode(), root)


def root_of(secret: bytes, store: str) -> bytes:
    """Step 7: the root in a secret."""
    before = pack(reference.LABEL, b"root", store.encode()) + (32).to_bytes(4, "big")
    if len(secret) != len(before) + 32 or not hmac.compare_digest(secret[: len(before)], before):
        raise WrongRoot("not the secret of this store")
    return secret[len(before) :]


def local_wrap_key(kek: bytes) -> bytes:
    """The AES-GCM key of a local key-encryption key."""
    if len(kek) != 32:
        raise ValueError("a local key-encryption key has 32 bytes")
    return reference.hkdf(kek, pack(reference.LABEL, b"wrap"))


def local_wrap(kek: bytes, secret: bytes, *, nonce: bytes) -> bytes:
    """Encrypt and authenticate; ``nonce`` is 12 bytes."""
    if len(nonce) != 12 or len(secret) > 256:
        raise ValueError("a nonce has 12 bytes, a secret at most 256")
    return nonce + AESGCM(local_wrap_key(kek)).encrypt(nonce, secret, LOCAL)


def local_unwrap(kek: bytes, wrapped: bytes) -> bytes:
    """The secret again."""
    if len(wrapped) < 12 + 16:
        raise Unwrap("too short")
    try:
        return AESGCM(local_wrap_key(kek)).decrypt(wrapped[:12], wrapped[12:], LOCAL)
    except InvalidTag:
        raise Unwrap("not wrapped by this key, or changed since") from None


def local_identity(id: str) -> Fields:
    """Which key it is."""
    return {"provider": "local", "key": id}


class Kek(NamedTuple):
    """A configured key-encryption key."""

    identity: Fields
    unwrap: Callable[[bytes], bytes]
    public: bool = False


def local(kek: bytes, id: str) -> Kek:
    """The local one."""
    return Kek(local_identity(id), lambda wrapped: local_unwrap(kek, wrapped))


def local_file(kek: bytes, id: str) -> Fields:
    """What a file of a local key-encryption key has, as JSON."""
    if STORE.fullmatch(id) is None:
        raise ValueError("an id is 16 hexadecimal digits")
    return {"version": 1, "kek": base64.b64encode(kek).decode(), "check": reference.check_value(kek).hex(), "id": id}


# --- section 2: records ---------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """What a key record says."""

    kid: str
    purpose: str
    state: str
    created: datetime
    check: bytes
    material: bytes | None  # None: destroyed


class Roles(NamedTuple):
    """What the roles record says."""

    primary: str
    search_by: str | None
    written: list[str]
    changed: datetime


def records_context(store: str) -> str:
    """The context in which the records of a store are sealed."""
    return f"mongo_envelope/keys/{store}"


def root_record(store: str, kms: Fields, wrapped: bytes, created: datetime) -> bytes:
    """The root record as BSON."""
    if STORE.fullmatch(store) is None:
        raise ValueError("a store is 16 hexadecimal digits")
    fields = {"_id": ROOT, "version": 1, "store": store, "kms": kms, "wrapped": wrapped, "created": created}
    return bson.encode(fields, codec_options=reference.OPTIONS)


def sealed(metadata: Fields, payload: Fields, *, store: str, root: bytes, iv: bytes) -> bytes:
    """A document under the root, whatever it says."""
    text = json.dumps(payload, separators=(",", ":")).encode()
    return reference.seal(metadata, text, key=root, kid=ROOT, context=records_context(store), iv=iv)


def key_record(key: Key, *, store: str, root: bytes, iv: bytes) -> bytes:
    """A key record; ``ValueError`` for a key that the text does not know."""
    if KID.fullmatch(key.kid) is None or key.kid in (ROOT, ROLES):
        raise ValueError("the kid is ill-formed, or means something else")
    if key.purpose not in PURPOSES or key.state not in STATES[key.purpose]:
        raise ValueError("no such purpose, or no such state of this purpose")
    if (key.material is None) != (key.state == "destroyed"):
        raise ValueError("a key has material exactly if it is not destroyed")
    if key.material is not None and (len(key.material) != 32 or reference.check_value(key.material) != key.check):
        raise ValueError("the material has 32 bytes, and the check value is its own")
    if len(key.check) != 8:
        raise ValueError("a check value has 8 bytes")
    metadata = {"_id": key.kid, "purpose": key.purpose, "state": key.state, "created": key.created, "check": key.check}
    payload = {} if key.material is None else {"material": base64.b64encode(key.material).decode()}
    return sealed(metadata, payload, store=store, root=root, iv=iv)


def roles_record(roles: Roles, *, store: str, root: bytes, iv: bytes) -> bytes:
    """The roles record; ``ValueError`` for roles that cannot be right whatever the keys are."""
    kids = [roles.primary, *roles.written]
    if any(KID.fullmatch(kid) is None or kid in (ROOT, ROLES) for kid in kids):
        raise ValueError("a kid is ill-formed, or means something else")
    if roles.written != sorted(set(roles.written)):
        raise ValueError("written is in bytewise order, each once")
    if roles.search_by not in (roles.written or [None]):
        raise ValueError("search_by is one of written, or null if there is none")
    return sealed({"_id": ROLES} | roles._asdict(), {}, store=store, root=root, iv=iv)


# --- section 4: read ------------------------------------------------------------------------------------------------


class Store(NamedTuple):
    """What a store holds."""

    store: str
    root: bytes
    fingerprint: bytes
    data_keys: dict[str, Key]
    index_keys: dict[str, Key]
    roles: Roles


def elements_of(raw: bytes, error: type[KeyStoreError]) -> dict[bytes, bytes]:
    """The elements of a document by name, cut by size alone."""
    try:
        if len(raw) < 5 or reference.int32(raw, 0) != len(raw) or raw[-1] != 0:
            raise error("the length is wrong, or the closing zero")
        return reference.unique(reference.walk(raw[4:-1]))
    except reference.MalformedEnvelopeError as malformed:
        raise error(str(malformed)) from malformed


def by_id(records: Iterable[bytes]) -> dict[bytes, bytes]:
    """Step 1: the records by ``_id``, in bytewise order."""
    found: dict[bytes, bytes] = {}
    for raw in records:
        elements = elements_of(raw, MalformedRecord)
        if b"_id" not in elements:
            raise MalformedRecord("no _id")
        identity = elements[b"_id"]
        name = reference.value_of(identity)[4:-1] if identity[0] == STRING else b"\xff" + identity  # which no text is
        if name in found:
            raise Contradiction("two documents have one _id")
        found[name] = raw
    return dict(sorted(found.items()))


def types_fit(elements: dict[bytes, bytes], types: dict[bytes, tuple[int, ...]]) -> bool:
    """Whether these are the names, each with a type that it may have; of binaries subtype 0 alone."""
    return elements.keys() == types.keys() and all(
        element[0] in types[name] and (element[0] != BINARY or reference.is_binary(element)) for name, element in elements.items()
    )


def same_identity(stored: bytes, configured: Any) -> bool:
    """Step 5, of one element and one configured value."""
    kind, value = stored[0], reference.value_of(stored)
    if kind == DOCUMENT:
        if not isinstance(configured, dict):
            return False
        elements = elements_of(value, MalformedRecord)
        names = {name.encode(): name for name in configured}
        return elements.keys() == names.keys() and all(same_identity(elements[n], configured[names[n]]) for n in names)
    if kind == STRING:
        return isinstance(configured, str) and value[4:-1] == configured.encode()
    if kind == BOOLEAN:
        return isinstance(configured, bool) and value == bytes([configured])
    if kind in (INT32, INT64):
        integer = isinstance(configured, int) and not isinstance(configured, bool)
        return integer and int.from_bytes(value, "little", signed=True) == configured
    return False


def read_root(raw: bytes, kek: Kek, fingerprint: bytes | None) -> tuple[str, bytes]:
    """Steps 2 to 8: the store's id and its root."""
    elements = elements_of(raw, MalformedRecord)
    version = elements.get(b"version", VERSION_ELEMENT)
    if version[0] == INT32 and version != VERSION_ELEMENT:
        raise UnsupportedVersion("version is not 1")
    types = {b"_id": STRING, b"version": INT32, b"store": STRING, b"kms": DOCUMENT, b"wrapped": BINARY, b"created": DATE}
    if not types_fit(elements, {name: (kind,) for name, kind in types.items()}):
        raise MalformedRecord("a name or a type is not that of a root record")
    try:
        fields = bson.decode(raw, codec_options=AS_STORED)
    except Exception as error:
        raise MalformedRecord("an element is not valid BSON") from error
    if STORE.fullmatch(fields["store"]) is None:
        raise MalformedRecord("store is not 16 hexadecimal digits")
    if kek.public and fingerprint is None:
        raise NoFingerprint("anybody could have made this store")
    if not same_identity(elements[b"kms"], kek.identity):
        raise ForeignKey("kms is not the configured identity")
    root = root_of(kek.unwrap(fields["wrapped"]), fields["store"])
    if fingerprint is not None and not hmac.compare_digest(reference.fingerprint(root), fingerprint):
        raise WrongFingerprint("not the configured fingerprint")
    return fields["store"], root


def opened(raw: bytes, store: str, root: bytes) -> tuple[Fields, bytes]:
    """Step 9.1: metadata and payload of one record."""
    context = records_context(store)
    try:
        metadata, _ = reference.open(raw, keys={ROOT: root}, context=context)
    except reference.MalformedEnvelopeError as error:
        raise MalformedRecord(str(error)) from error
    except reference.UnsupportedVersionError as error:
        raise UnsupportedVersion(str(error)) from error
    except (reference.UnknownKeyError, reference.IntegrityError) as error:
        raise Integrity(str(error)) from error
    except reference.PayloadError as error:
        raise InvalidRecord(str(error)) from error
    elements = elements_of(raw, MalformedRecord)
    iv, data = (reference.value_of(elements[name])[5:] for name in (b"iv", b"data"))
    return metadata, reference.crypt(reference.derive(root, "encrypt", context), iv, data)


def own_elements(raw: bytes) -> dict[bytes, bytes]:
    """The elements of a record that was opened, without those that every sealed document has."""
    return {name: element for name, element in elements_of(raw, InvalidRecord).items() if name not in ENVELOPE}


def read_roles(raw: bytes, metadata: Fields, payload: bytes) -> Roles:
    """Step 9.2 of the roles record."""
    types: dict[bytes, tuple[int, ...]] = {b"_id": (STRING,), b"primary": (STRING,), b"search_by": (STRING, NULL)}
    elements = own_elements(raw)
    if not types_fit(elements, types | {b"written": (ARRAY,), b"changed": (DATE,)}) or payload != b"{}":
        raise InvalidRecord("a name or a type is not that of a roles record, or there is a payload")
    items = reference.walk(reference.value_of(elements[b"written"])[4:-1])
    kids = [reference.value_of(item)[4:-1] for _, item in items]
    if any(item[0] != STRING for _, item in items) or kids != sorted(set(kids)):
        raise InvalidRecord("written is not texts in bytewise order, each once")
    if (metadata["search_by"] is None) != (not kids):
        raise InvalidRecord("search_by is null exactly if nothing is written")
    return Roles(metadata["primary"], metadata["search_by"], metadata["written"], metadata["changed"])


def read_key(raw: bytes, metadata: Fields, payload: bytes) -> Key:
    """Step 9.2 of a key record."""
    types = {b"_id": STRING, b"purpose": STRING, b"state": STRING, b"created": DATE, b"check": BINARY}
    if not types_fit(own_elements(raw), {name: (kind,) for name, kind in types.items()}):
        raise InvalidRecord("a name or a type is not that of a key record")
    kid, purpose, state, check = metadata["_id"], metadata["purpose"], metadata["state"], metadata["check"]
    if KID.fullmatch(kid) is None:
        raise InvalidRecord("_id is not a kid")
    if purpose not in PURPOSES or state not in STATES[purpose]:
        raise InvalidRecord("no such purpose, or no such state of this purpose")
    if len(check) != 8:
        raise InvalidRecord("check is not 8 bytes")
    if state == "destroyed":
        if payload != b"{}":
            raise InvalidRecord("a destroyed key has a payload")
        return Key(kid, purpose, state, metadata["created"], check, None)
    found = PAYLOAD.fullmatch(payload)
    if found is None:
        raise InvalidRecord("the payload is not material")
    material = base64.b64decode(found[1])
    if not hmac.compare_digest(reference.check_value(material), check):
        raise InvalidRecord("the check value is not that of the material")
    return Key(kid, purpose, state, metadata["created"], check, material)


def from_base64(text: Any) -> bytes | None:
    """32 bytes, or None if it is not Base64 of 32 bytes."""
    return base64.b64decode(text) if isinstance(text, str) and BASE64.fullmatch(text) is not None else None


def check_roles(roles: Roles, data_keys: dict[str, Key], index_keys: dict[str, Key]) -> None:
    """Step 11: the rules of roles."""
    if roles.primary not in data_keys or data_keys[roles.primary].state not in ("active", "decrypt-only"):
        raise Contradiction("primary is not a data key that may seal")
    if any(kid not in index_keys or index_keys[kid].state != "active" for kid in roles.written):
        raise Contradiction("one of written is not an active index key")
    if roles.search_by is not None and roles.search_by not in roles.written:
        raise Contradiction("search_by is not one of written")


def read(records: Iterable[bytes], kek: Kek, *, fingerprint: bytes | None = None) -> Store:
    """A whole store, or one of the errors of section 4."""
    documents = by_id(records)
    if ROOT.encode() not in documents:
        raise (Contradiction if documents else Incomplete)("there is no root record")
    store, root = read_root(documents.pop(ROOT.encode()), kek, fingerprint)
    roles: Roles | None = None
    keys: dict[str, dict[str, Key]] = {"data": {}, "index": {}}
    for identity, raw in documents.items():
        metadata, payload = opened(raw, store, root)
        if identity == ROLES.encode():
            roles = read_roles(raw, metadata, payload)
        else:
            key = read_key(raw, metadata, payload)
            keys[key.purpose][key.kid] = key
    if roles is None:
        raise Incomplete("there is no roles record")
    check_roles(roles, keys["data"], keys["index"])
    return Store(store, root, reference.fingerprint(root), keys["data"], keys["index"], roles)


# --- section 7: files -----------------------------------------------------------------------------------------------


def json_object(text: str) -> Fields:
    """One JSON object in which no name occurs twice, or ``ValueError``."""
    try:
        return reference.parse(text.encode())
    except (reference.PayloadError, UnicodeEncodeError):
        raise ValueError("not one JSON object") from None


def to_file(records: Iterable[bytes]) -> Fields:
    """What a file of a store has, as JSON."""
    decoded = (bson.decode(raw, codec_options=AS_STORED) for raw in by_id(records).values())
    return {"version": 1, "records": [json.loads(json_util.dumps(each, json_options=CANONICAL)) for each in decoded]}


def from_file(text: str) -> list[bytes]:
    """The documents in a file, as BSON."""
    try:
        content = json_object(text)
        version, records = content.pop("version"), content.pop("records")
        decoded = [json_util.loads(json.dumps(each), json_options=CANONICAL) for each in records]
        encoded = [bson.encode(each, codec_options=AS_STORED) for each in decoded]
    except Exception as error:
        raise MalformedFile("not documents in extended JSON") from error
    if content or not is_version(version, 1) or not isinstance(records, list):
        raise MalformedFile("not version 1 of a file of a key store")
    return encoded


def is_version(value: Any, *versions: int) -> bool:
    """Whether this is one of the versions, as an integer."""
    return type(value) is int and value in versions


# --- sections 3.3 and 8: files with keys ----------------------------------------------------------------------------


class ConfigurationError(Exception):
    """A file with keys that is not as the text says."""


def demand(condition: object, message: str) -> None:
    """Raise unless it holds."""
    if not condition:
        raise ConfigurationError(message)


def key_object(text: str) -> Fields:
    """A file with keys as an object."""
    try:
        return json_object(text)
    except ValueError:
        raise ConfigurationError("not one JSON object") from None


def read_local_file(text: str) -> tuple[bytes, str]:
    """The local key-encryption key in a file, and its id."""
    content = key_object(text)
    demand(content.keys() == {"version", "kek", "check", "id"} and is_version(content["version"], 1), "not version 1")
    kek = checked(content["kek"], content["check"])
    demand(isinstance(content["id"], str) and STORE.fullmatch(content["id"]), "id is not 16 hexadecimal digits")
    return kek, content["id"]


def checked(material: Any, check: Any) -> bytes:
    """Base64 of 32 bytes that have this check value."""
    found = from_base64(material)
    demand(is_check(check), "check is not 16 hexadecimal digits")
    if found is None or not hmac.compare_digest(reference.check_value(found).hex(), check):
        raise ConfigurationError("not Base64 of 32 bytes, or the check value does not fit")
    return found


def is_check(text: Any) -> bool:
    """Whether this is 16 hexadecimal digits."""
    return isinstance(text, str) and CHECK.fullmatch(text) is not None


def is_moment(text: Any) -> bool:
    """Whether this is null or a date and time with an offset."""
    if text is None:
        return True
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).utcoffset() is not None
    except ValueError:
        return False


def entries(content: list[Fields], names: set[str], known: set[str]) -> dict[str, Fields]:
    """Entries by kid; ``known`` grows by theirs."""
    demand(isinstance(content, list), "keys are a list")
    found = {}
    for entry in content:
        demand(isinstance(entry, dict) and entry.keys() == {"kid", "check", "created"} | names, "an entry has other names")
        kid = entry["kid"]
        demand(isinstance(kid, str) and KID.fullmatch(kid), "a kid is ill-formed")
        demand(kid not in known, "a kid occurs twice")
        demand(is_check(entry["check"]) and is_moment(entry["created"]), "check or created is ill-formed")
        known.add(kid)
        found[kid] = entry
    return found


def is_list_of_texts(value: Any) -> bool:
    """Whether this is a list of texts, none of them twice."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len(set(value)) == len(value)


def check_written(content: Fields, index_keys: dict[str, Fields]) -> None:
    """``written`` is index keys, each once, and ``search_by`` one of them."""
    demand(is_list_of_texts(content["written"]) and set(content["written"]) <= index_keys.keys(), "written")
    demand(isinstance(content["search_by"], str) and content["search_by"] in content["written"], "search_by")


def read_key_file(text: str) -> Fields:
    """A key file of any version, in order, else `ConfigurationError`. Keys and working keys become bytes, by kid (and context)."""
    content = key_object(text)
    version = content.get("version")
    demand(is_version(version, 1, 2, 3), "no such version")
    return read_capabilities(content) if version == 3 else read_whole_keys(content)


def read_whole_keys(content: Fields) -> Fields:
    """Versions 1 and 2."""
    names, kids = {"version", "primary", "keys"}, set[str]()
    if content["version"] == 2:
        names |= {"index_keys", "search_by", "written"}
    demand(content.keys() == names, "other names than those of this version")
    keys, index_keys = entries(content["keys"], {"material"}, kids), {}
    demand(keys and isinstance(content["primary"], str) and content["primary"] in keys, "primary is not one of keys")
    if content["version"] == 2:
        index_keys = entries(content["index_keys"], {"material"}, kids)
        check_written(content, index_keys)
    materials = [{kid: checked(each["material"], each["check"]) for kid, each in part.items()} for part in (keys, index_keys)]
    return content | {"keys": materials[0]} | ({"index_keys": materials[1]} if content["version"] == 2 else {})


CAPABILITIES = {"verify", "metadata", "search"}


def read_capabilities(content: Fields) -> Fields:
    """Version 3."""
    names = {"version", "capabilities", "contexts", "keys", "index_keys", "search_by", "written"}
    demand(content.keys() == names, "other names than those of this version")
    capabilities, contexts, kids = content["capabilities"], content["contexts"], set[str]()
    demand(is_list_of_texts(capabilities) and capabilities and set(capabilities) <= CAPABILITIES, "capabilities")
    demand("verify" in capabilities or "metadata" not in capabilities, "metadata without verify")
    demand(is_list_of_texts(contexts) and contexts, "contexts")
    demand(all(1 <= len(each.encode()) <= 255 for each in contexts), "a context has 1 to 255 bytes")
    keys, index_keys = (entries(content[name], {"contexts"}, kids) for name in ("keys", "index_keys"))
    verifies, searches = "verify" in capabilities, "search" in capabilities
    demand((bool(keys), bool(index_keys)) == (verifies, searches), "keys exactly where there is a capability for them")
    if searches:
        check_written(content, index_keys)
    else:
        demand(content["search_by"] is None and content["written"] == [], "roles without index keys")
    parts = {
        name: {kid: working(each, contexts) for kid, each in part.items()}
        for name, part in (("keys", keys), ("index_keys", index_keys))
    }
    return content | parts


def working(entry: Fields, contexts: list[str]) -> dict[str, bytes]:
    """The working keys of an entry by context."""
    demand(isinstance(entry["contexts"], dict) and entry["contexts"].keys() == set(contexts), "the contexts of an entry")
    found = {}
    for context, each in entry["contexts"].items():
        demand(isinstance(each, dict) and each.keys() == {"key", "check"}, "a working key has other names")
        found[context] = checked(each["key"], each["check"])
    return found


class FileKey(NamedTuple):
    """A key of a file; ``created`` is ISO 8601 with an offset, or None."""

    kid: str
    material: bytes
    created: str | None = None


def file_entry(key: FileKey) -> Fields:
    """An entry of versions 1 and 2."""
    material, check = base64.b64encode(key.material).decode(), reference.check_value(key.material).hex()
    return {"kid": key.kid, "material": material, "check": check, "created": key.created}


def key_file(
    keys: list[FileKey], primary: str, *, index_keys: Iterable[FileKey] = (), search_by: str = "", written: Iterable[str] = ()
) -> Fields:
    """A key file of version 1, or of version 2 if there are index keys."""
    content: Fields = {"version": 1, "primary": primary, "keys": list(map(file_entry, keys))}
    if index_keys:
        roles = {"index_keys": list(map(file_entry, index_keys)), "search_by": search_by, "written": list(written)}
        content = content | {"version": 2} | roles
    return content


def restricted_entry(key: FileKey, purpose: str, contexts: Iterable[str]) -> Fields:
    """An entry of version 3."""
    working_keys = {context: reference.derive(key.material, purpose, context) for context in contexts}
    keys = {
        context: {"key": base64.b64encode(each).decode(), "check": reference.check_value(each).hex()}
        for context, each in working_keys.items()
    }
    return {"kid": key.kid, "check": reference.check_value(key.material).hex(), "created": key.created, "contexts": keys}


def restricted_file(
    capabilities: Iterable[str],
    contexts: Iterable[str],
    keys: list[FileKey],
    *,
    index_keys: Iterable[FileKey] = (),
    search_by: str | None = None,
    written: Iterable[str] = (),
) -> Fields:
    """A key file of version 3, from whole keys: of them only what the capabilities need."""
    wanted = set(capabilities)
    names = sorted(wanted | ({"verify"} if "metadata" in wanted else set()))
    places = sorted(contexts, key=str.encode)
    verifies, searches = "verify" in names, "search" in names
    return {
        "version": 3,
        "capabilities": names,
        "contexts": places,
        "keys": [restricted_entry(key, "authenticate", places) for key in keys if verifies],
        "index_keys": [restricted_entry(key, "index", places) for key in index_keys if searches],
        "search_by": search_by if searches else None,
        "written": sorted(written) if searches else [],
    }
