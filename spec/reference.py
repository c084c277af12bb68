"""A second, independent implementation of the stored format v1, written from ``envelope-v1.md`` alone.

Plain and slow on purpose. It imports nothing of the library, so that the two can disagree; ``cryptography`` serves for
AES-CTR, ``bson`` for turning values into elements and back; HKDF and the walk over the elements are written out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Element = tuple[bytes, bytes]  # (name, the whole element: type, name, zero, value)
Fields = dict[str, Any]

LABEL = b"mongo_envelope/v1"
PURPOSES_WITH_CONTEXT = ("encrypt", "authenticate", "index", "value-encrypt", "value-authenticate")
PURPOSES_WITHOUT_CONTEXT = ("fingerprint", "check")
RESERVED = {"_id", "idx", "v", "kid", "iv", "data", "hmac"}
KID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")

VERSION_ELEMENT = b"\x10v\0" + b"\x01\0\0\0"
TAG_HEADER = b"\x05hmac\0" + b"\x20\0\0\0" + b"\0"
MAX_ELEMENTS = 4096
TRAILER = len(TAG_HEADER) + 32 + 1  # the hmac element and the closing zero: 44

STRING, DOCUMENT, ARRAY, BINARY, REGEX, TIMESTAMP = 0x02, 0x03, 0x04, 0x05, 0x0B, 0x11

# Section 4.2: the size of a value, by its type …
FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
# … or what to add to the int32 that it starts with, and the least that this int32 may be.
ADDED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
LEAST = {0x02: 1, 0x03: 5, 0x04: 5, 0x05: 0, 0x0C: 1, 0x0D: 1, 0x0E: 1, 0x0F: 14}

UUIDS, DATES = UuidRepresentation.STANDARD, DatetimeConversion.DATETIME_AUTO
OPTIONS: CodecOptions[Fields] = CodecOptions(uuid_representation=UUIDS, tz_aware=True, datetime_conversion=DATES)


class MalformedEnvelopeError(Exception):
    """Steps 1, 3 and 5.1: this is not a document of the format."""


class UnsupportedVersionError(Exception):
    """Step 2: ``v`` is not int32 1."""


class UnknownKeyError(Exception):
    """Step 3: well-formed, but the key is not at hand; nothing is known about the document."""


class IntegrityError(Exception):
    """Step 4: the tag does not fit."""


class PayloadError(Exception):
    """Step 5.3: what was decrypted is not one JSON object."""


# --- section 3: keys ------------------------------------------------------------------------------------------------


def pack(*parts: bytes) -> bytes:
    """Write each part after its length as uint32 big-endian."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def hkdf(key: bytes, info: bytes, *, salt: bytes = b"", length: int = 32) -> bytes:
    """HKDF-SHA-256 of RFC 5869: extract, then expand."""
    prk = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), hashlib.sha256)
        okm, counter = okm + block, counter + 1
    return okm[:length]


def purpose_key(key: bytes, purpose: str) -> bytes:
    """K_p, the first of the two steps."""
    if purpose not in PURPOSES_WITH_CONTEXT + PURPOSES_WITHOUT_CONTEXT or len(key) != 32:
        raise ValueError("no such purpose, or a key that is not 32 bytes")
    return hkdf(key, pack(LABEL, purpose.encode()))


def derive(key: bytes, purpose: str, context: str) -> bytes:
    """The working key of one purpose in one context, 32 bytes."""
    if purpose not in PURPOSES_WITH_CONTEXT:
        raise ValueError("this purpose has no context")
    encoded = context.encode()
    if not 1 <= len(encoded) <= 255:
        raise ValueError("a context is 1 to 255 bytes of UTF-8")
    return hkdf(purpose_key(key, purpose), pack(LABEL, purpose.encode(), encoded))


def check_value(key: bytes) -> bytes:
    """8 bytes that tell one key from another without revealing either."""
    return purpose_key(key, "check")[:8]


def fingerprint(root: bytes) -> bytes:
    """16 bytes by which a store root is recognised."""
    return purpose_key(root, "fingerprint")[:16]


# --- section 4: bytes -----------------------------------------------------------------------------------------------


def int32(data: bytes, at: int) -> int:
    """A little-endian signed integer; it must be there."""
    if at + 4 > len(data):
        raise MalformedEnvelopeError("an element runs past the end")
    return int.from_bytes(data[at : at + 4], "little", signed=True)


def after_cstring(data: bytes, at: int) -> int:
    """Where the byte after a cstring's zero is."""
    zero = data.find(b"\0", at)
    if zero < 0:
        raise MalformedEnvelopeError("a name or a regular expression does not end")
    return zero + 1


def walk(body: bytes) -> list[Element]:
    """Cut a sequence of elements (a document without its length and its closing zero) by size alone."""
    elements: list[Element] = []
    at = 0
    while at < len(body):
        kind, value = body[at], after_cstring(body, at + 1)
        if kind in FIXED:
            end = value + FIXED[kind]
        elif kind in ADDED:
            if (length := int32(body, value)) < LEAST[kind]:
                raise MalformedEnvelopeError("a length is too small")
            end = value + length + ADDED[kind]
        elif kind == REGEX:
            end = after_cstring(body, after_cstring(body, value))
        else:
            raise MalformedEnvelopeError("unknown element type")
        if end > len(body):
            raise MalformedEnvelopeError("an element runs past the end")
        elements.append((body[at + 1 : value - 1], body[at:end]))
        at = end
    return elements


def unique(elements: Iterable[Element]) -> dict[bytes, bytes]:
    """Elements by name; a name that occurs twice is malformed."""
    by_name: dict[bytes, bytes] = {}
    for name, element in elements:
        if len(by_name) == MAX_ELEMENTS:
            raise MalformedEnvelopeError("too many elements")
        if name in by_name:
            raise MalformedEnvelopeError("a name occurs twice")
        by_name[name] = element
    return by_name


def in_order(elements: Iterable[Element]) -> list[Element]:
    """``_id`` first, the others in bytewise order of their names, ``hmac`` last."""
    return sorted(elements, key=lambda e: (e[0] != b"_id", e[0] == b"hmac", e[0]))


def value_of(element: bytes) -> bytes:
    """What follows the type and the name."""
    return element[after_cstring(element, 1) :]


def is_kid(element: bytes) -> bool:
    """Whether this is a string of 1 to 64 permitted characters."""
    value = value_of(element)
    return element[0] == STRING and value[-1] == 0 and KID.fullmatch(value[4:-1]) is not None


def is_binary(element: bytes) -> bool:
    """Whether this is a binary of subtype 0."""
    return element[0] == BINARY and value_of(element)[4] == 0


def is_idx(element: bytes) -> bool:
    """Whether this is ``{kid: string, name: binary | [binary, …], …}``."""
    if element[0] != DOCUMENT:
        return False
    fields = unique(walk(value_of(element)[4:-1]))
    if b"kid" not in fields or not is_kid(fields.pop(b"kid")):
        return False
    arrays = [field for field in fields.values() if field[0] == ARRAY]
    values = [field for field in fields.values() if field[0] != ARRAY]
    values += [item for array in arrays for _, item in walk(value_of(array)[4:-1])]
    return all(is_binary(value) for value in values)


# --- section 5: seal ------------------------------------------------------------------------------------------------


def crypt(key: bytes, iv: bytes, data: bytes) -> bytes:
    """AES-256-CTR, either way; the whole IV is the counter, big-endian, and wraps."""
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


def tag_of(body: bytes, *, key: bytes, context: str) -> bytes:
    """HMAC-SHA-256 over the elements in order."""
    return hmac.digest(derive(key, "authenticate", context), body, hashlib.sha256)


def assemble(elements: Iterable[Element], *, key: bytes, context: str) -> bytes:
    """Steps 4 to 6: put in order, authenticate, frame."""
    body = b"".join(element for _, element in in_order(elements))
    trailer = TAG_HEADER + tag_of(body, key=key, context=context) + b"\0"
    return (4 + len(body) + len(trailer)).to_bytes(4, "little") + body + trailer


def seal(metadata: Fields, payload: bytes, *, key: bytes, kid: str, context: str, iv: bytes, idx: Fields | None = None) -> bytes:
    """Seal one document; a refused argument is a ``ValueError``, a refused payload a ``PayloadError``."""
    if "_id" not in metadata or any(name in RESERVED for name in metadata if name != "_id"):
        raise ValueError("the metadata lacks _id or uses a reserved name")
    if len(metadata) + (idx is not None) + 5 > MAX_ELEMENTS:
        raise ValueError("a document has at most 4,096 elements")
    if any(name == "" or name[0] == "$" or "." in name or "\0" in name for name in metadata):
        raise ValueError("a name is empty, starts with $, or contains . or NUL")
    if KID.fullmatch(kid.encode()) is None or len(iv) != 16:
        raise ValueError("kid or iv is ill-formed")
    parse(payload)
    data = crypt(derive(key, "encrypt", context), iv, payload)
    fields = metadata | {"v": 1, "kid": kid, "iv": iv, "data": data} | ({} if idx is None else {"idx": idx})
    elements = {name.encode(): bson.encode({name: fields[name]}, codec_options=OPTIONS)[4:-1] for name in fields}
    if any(element[0] == TIMESTAMP and value_of(element) == bytes(8) for element in elements.values()):
        raise ValueError("the server would replace Timestamp(0, 0)")
    if idx is not None and not is_idx(elements[b"idx"]):
        raise ValueError("idx is {kid: string, index name: binary or array of binaries}")
    return assemble(elements.items(), key=key, context=context)


# --- section 6: open ------------------------------------------------------------------------------------------------


def parse(payload: bytes) -> Fields:
    """Step 5.3: strict UTF-8, one JSON object, names unique in every object, whole Unicode strings."""

    def once(pairs: list[tuple[str, Any]]) -> Fields:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on the escape of a lone surrogate
    except (ValueError, RecursionError) as error:
        raise PayloadError("not JSON, or a name occurs twice") from error
    if not isinstance(value, dict):
        raise PayloadError("not an object")
    return value


def open(raw: bytes, *, keys: dict[str, bytes], context: str) -> tuple[Fields, Fields]:
    """Verify, then decrypt: the metadata with ``_id`` and without the envelope's fields, and the payload."""
    # Step 1: structure.
    if len(raw) < 4 + TRAILER or int32(raw, 0) != len(raw) or raw[-1] != 0:
        raise MalformedEnvelopeError("the length is wrong, or the closing zero")
    elements = dict(in_order(unique(walk(raw[4:-1])).items()))
    last = elements.pop(b"hmac", b"")
    if last[:-32] != TAG_HEADER:
        raise MalformedEnvelopeError("there is no hmac of 32 bytes")
    body, tag = b"".join(elements.values()), last[-32:]

    # Step 2: version.
    if elements.get(b"v") != VERSION_ELEMENT:
        raise UnsupportedVersionError("v is not int32 1")

    # Step 3: key.
    if b"kid" not in elements or not is_kid(elements[b"kid"]):
        raise MalformedEnvelopeError("kid is missing or ill-formed")
    kid = value_of(elements[b"kid"])[4:-1].decode()
    if kid not in keys:
        raise UnknownKeyError("no such key")

    # Step 4: tag.
    if not hmac.compare_digest(tag_of(body, key=keys[kid], context=context), tag):
        raise IntegrityError("the tag does not fit")

    # Step 5.1: types.
    iv, data, idx = (elements.get(name) for name in (b"iv", b"data", b"idx"))
    if iv is None or not is_binary(iv) or len(value_of(iv)) != 5 + 16:
        raise MalformedEnvelopeError("iv is not 16 bytes of binary subtype 0")
    if data is None or not is_binary(data):
        raise MalformedEnvelopeError("data is not binary subtype 0")
    if b"_id" not in elements or (idx is not None and not is_idx(idx)):
        raise MalformedEnvelopeError("_id is missing, or idx is ill-formed")
    try:
        metadata = bson.decode(raw[:4] + body + last + b"\0", codec_options=OPTIONS)
    except Exception as error:
        raise MalformedEnvelopeError("an element is not valid BSON") from error

    # Steps 5.2 and 5.3: decrypt, parse.
    payload = parse(crypt(derive(keys[kid], "encrypt", context), value_of(iv)[5:], value_of(data)[5:]))
    return {name: value for name, value in metadata.items() if name == "_id" or name not in RESERVED}, payload
