"""Format v1: `seal` makes a stored document from metadata and a payload, `open` gives both back or refuses.

The text is ``spec/envelope-v1.md``; the step numbers below are its numbers. This module knows bytes and BSON, and nothing
of models, collections or MongoDB. Above it stands `codec`; below it `keys` (working keys by id) and `primitives`.

    { _id, <metadata and envelope fields, names in bytewise order: data, idx?, iv, kid, v>, hmac }

The tag covers the exact bytes between the leading int32 length and the ``hmac`` element, so there is no canonical form
to agree on: what was stored is what is verified.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.timestamp import Timestamp

from . import primitives
from .datakey import is_kid
from .errors import IntegrityError, MalformedEnvelopeError, UnsupportedVersionError
from .keys import KeyRing

__all__ = [
    "CODEC_OPTIONS",
    "RESERVED",
    "TAG_HEADER",
    "Opened",
    "as_stored",
    "encode_document",
    "encodes",
    "identify",
    "kid_element",
    "kid_of",
    "kids_in",
    "open",
    "seal",
    "stored_tag",
    "tag_of",
    "tagged",
    "verify",
]

#: The names that a metadata field cannot have.
RESERVED: Final = frozenset({"_id", "idx", "v", "kid", "iv", "data", "hmac"})

#: How values become BSON and come back: UUID as subtype 4, dates aware, a date beyond Python's range kept as milliseconds.
CODEC_OPTIONS: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)

#: The most elements at the top of a document. A bound, so that a hostile document of 16 MB cannot cost a gigabyte to look at.
MAX_ELEMENTS: Final = 4096

#: The longest ``_id`` element that is decoded to name a document that was refused: a hostile one of 16 MB would cost a second.
_LONGEST_ID: Final = 1024

_INT32: Final = struct.Struct("<i")
#: What stands before the tag in the last element.
TAG_HEADER: Final = b"\x05hmac\x00" + _INT32.pack(primitives.TAG_BYTES) + b"\x00"  # binary, subtype 0
_TAG_HEAD: Final = TAG_HEADER[:1] + TAG_HEADER[6:]  # the same without the name, as `_element` gives it
_TRAILER_BYTES: Final = len(TAG_HEADER) + primitives.TAG_BYTES + 1  # 44: the hmac element and the closing zero
_VERSION_1: Final = b"\x10" + _INT32.pack(1)


class Opened(NamedTuple):
    """What a verified document holds. Never printed: the payload is plaintext."""

    document: dict[str, Any]  #: ``_id``, the metadata, ``idx`` where there is one, and the envelope's own fields
    payload: bytes  #: UTF-8 JSON, as it was sealed

    def __repr__(self) -> str:
        return "Opened(…)"


def seal(metadata: Mapping[str, Any], payload: bytes, *, keys: KeyRing, context: str) -> bytes:
    """The stored document, as BSON: ``metadata`` (with ``_id``) in the clear, ``payload`` encrypted, all of it authenticated.

    ``payload`` is one UTF-8 JSON object. That names are not empty and have no leading $ and no dot is checked by `schema`, once,
    and not here for every document. Raise `MalformedEnvelopeError` for metadata that the format has no place for.
    """
    return _seal_with(metadata, payload, keys=keys, context=context, iv=os.urandom(primitives.IV_BYTES))


def _seal_with(metadata: Mapping[str, Any], payload: bytes, *, keys: KeyRing, context: str, iv: bytes) -> bytes:
    """`seal`, deterministic. Only vectors call it with an ``iv`` of their own: one IV twice under one key is a two-time pad."""
    kid = keys.primary
    working = keys.sealing_keys(context)
    _check_metadata(metadata)
    fields = {**metadata, "data": working.cipher.encrypt(iv, payload), "iv": iv, "kid": kid, "v": 1}
    # Code points sort as their UTF-8 bytes do, so sorting text is sorting bytewise. The first _id keeps its place.
    return tagged(_encode({"_id": None, **{name: fields[name] for name in sorted(fields)}})[4:-1], working.authenticator)


def tagged(signed: bytes, authenticator: primitives.Authenticator) -> bytes:
    """The whole document of elements in the order of the format: its length before them, and the tag over them behind."""
    return b"%b%b%b%b\x00" % (
        _INT32.pack(4 + len(signed) + _TRAILER_BYTES),
        signed,
        TAG_HEADER,
        authenticator.tag(signed),
    )


def open(raw: bytes, *, keys: KeyRing, context: str) -> Opened:
    """Verify a stored document, then decrypt it. What is not the exact document that was sealed is refused.

    Raise `MalformedEnvelopeError`, `UnsupportedVersionError`, `UnknownKeyError` or `IntegrityError`, in this order of steps.
    """
    document, kid = _verified(raw, keys, context)
    return Opened(document, keys.working_keys(kid, context).cipher.decrypt(document["iv"], document["data"]))


def verify(raw: bytes, *, keys: KeyRing, context: str) -> dict[str, Any]:
    """`open` but for its last step: nothing is decrypted, and no key but the one that authenticates is derived."""
    return _verified(raw, keys, context)[0]


def _verified(raw: bytes, keys: KeyRing, context: str) -> tuple[dict[str, Any], str]:
    """The steps up to decryption: the document, and the id of its key."""
    # 1. The frame: lengths, no name twice, whole elements moved if out of order, and then an hmac element at the end.
    raw, elements = _arrange(raw)
    # 2. The version.
    if _element(raw, elements, b"v") != _VERSION_1:
        raise UnsupportedVersionError("not a sealed document of version 1, the only one that this package reads")
    # 3. The key, by its id.
    kid = _kid(_element(raw, elements, b"kid"))
    authenticator = keys.authenticator(kid, context)
    # 4. The tag, in constant time. Before this line nothing is decoded, after it nothing is doubted.
    #    The right tag of a wrong document is a forgery: it gets no name, by which a traceback could show it.
    if not hmac.compare_digest(authenticator.tag(raw[4:-_TRAILER_BYTES]), raw[-primitives.TAG_BYTES - 1 : -1]):
        raise IntegrityError(
            "the document does not match its authentication tag: it was edited, put together from others, or sealed "
            "under another context or another key of the same id"
        )
    # 5. Decode, check the envelope's own types.
    document = _decode(raw)
    iv, data = document.get("iv"), document.get("data")
    if type(iv) is not bytes or len(iv) != primitives.IV_BYTES or type(data) is not bytes or "_id" not in document:
        raise MalformedEnvelopeError("_id, iv or data is not what format v1 prescribes")  # a bson.Binary is of another subtype
    if b"idx" in elements:
        _check_idx(_element(raw, elements, b"idx")[1:], document["idx"])
    return document, kid


_OWN: Final = RESERVED - {"_id", "idx"}


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    """Spec 2.1 and 2.2, but for what `schema` has checked of the names."""
    if metadata.get("_id") is None:
        raise MalformedEnvelopeError("a document without an _id, or whose _id is null, cannot be sealed")
    if not _OWN.isdisjoint(metadata):
        raise MalformedEnvelopeError(
            "metadata uses a name that belongs to the envelope: " + ", ".join(sorted(_OWN & metadata.keys()))
        )
    if Timestamp in map(type, metadata.values()) and Timestamp(0, 0) in metadata.values():
        raise MalformedEnvelopeError("a top-level Timestamp(0, 0) cannot be sealed: the server would replace it")
    if len(metadata) > MAX_ELEMENTS - len(_OWN):
        raise MalformedEnvelopeError(f"a document has at most {MAX_ELEMENTS} fields")
    if "idx" in metadata and not _is_idx(metadata["idx"]):
        raise MalformedEnvelopeError("idx is {kid or a list of kids, index name: bytes or a list of them}")


def _position(name: bytes) -> tuple[bool, bool, bytes]:
    return name != b"_id", name == b"hmac", name


# ---------------------------------------------------------------------------------------------------------------------
# Top-level BSON elements, as bytes. Source: bsonspec.org, version 1.1.

#: element type → the size of its value
_FIXED: Final = {
    0x01: 8,  # double
    0x06: 0,  # undefined
    0x07: 12,  # ObjectId
    0x08: 1,  # boolean
    0x09: 8,  # date
    0x0A: 0,  # null
    0x10: 4,  # int32
    0x11: 8,  # timestamp
    0x12: 8,  # int64
    0x13: 16,  # decimal128
    0x7F: 0,  # max key
    0xFF: 0,  # min key
}
#: element type → (what comes on top of the int32 that heads its value, the least that int32 can be)
_COUNTED: Final = {
    0x02: (4, 1),  # string
    0x03: (0, 5),  # document
    0x04: (0, 5),  # array
    0x05: (5, 0),  # binary
    0x0C: (16, 1),  # DBPointer
    0x0D: (4, 1),  # code
    0x0E: (4, 1),  # symbol
    0x0F: (0, 14),  # code with scope
}
_REGEX: Final = 0x0B
_ARRAY: Final = 0x04

_Span = tuple[int, int, int]  # the element begins, its value begins, it ends


def identify(raw: bytes, *, longest: int = _LONGEST_ID) -> Any:
    """The unverified ``_id`` of a raw document, and nothing else of it; None where there is none to be read, or a longer one.

    By itself it is for an error message. Whoever is to find a document by it allows it to be as long as the document.
    """
    elements: dict[bytes, _Span] = {}
    try:
        with contextlib.suppress(MalformedEnvelopeError):  # what stands before the fault is enough
            _walk(raw, elements)
        start, _, end = elements[b"_id"]
        if end - start > longest:
            return None
        return bson.decode(_INT32.pack(end - start + 5) + raw[start:end] + b"\x00", CODEC_OPTIONS)["_id"]
    except (KeyError, BSONError):
        return None


def tag_of(raw: bytes) -> bytes:
    """The tag of a sealed document."""
    return raw[-primitives.TAG_BYTES - 1 : -1]


def stored_tag(raw: bytes) -> bytes:
    """The tag in a document that nobody has verified; empty where there is none to be read. Nothing is decoded."""
    try:
        element = _element(raw, _walk(raw, {}), b"hmac")
    except MalformedEnvelopeError:
        return b""
    return element[len(_TAG_HEAD) :] if element.startswith(_TAG_HEAD) else b""


def kids_in(raws: Iterable[bytes]) -> set[str]:
    """The kids that documents may be under, which nobody has verified: also what only looks like one."""
    found: set[bytes] = set()
    for raw in raws:
        found.update(_KID_ELEMENTS(raw))
    return {each.decode() for each in found}


_KID_ELEMENTS: Final = re.compile(rb"\x02kid\x00.{4}([A-Za-z0-9_.-]{1,64})\x00", re.DOTALL).findall


def kid_of(raw: bytes) -> str | None:
    """The kid of a document, which nobody has verified; None where there is none to be read. Nothing else is decoded."""
    try:
        return _kid(_element(raw, _walk(raw, {}), b"kid"))
    except MalformedEnvelopeError:
        return None


def kid_element(kid: str) -> bytes:
    """The element ``kid`` of BSON, as it stands in a document and, of one index key, in its ``idx``."""
    return b"\x02kid\x00" + _INT32.pack(len(kid) + 1) + kid.encode() + b"\x00"


def as_stored(value: Any) -> Any:
    """A value as it comes back from BSON: a date in whole milliseconds, say."""
    return bson.decode(_encode({"value": value}), CODEC_OPTIONS)["value"]


def _arrange(raw: bytes) -> tuple[bytes, dict[bytes, _Span]]:
    """Step 1: the document with its top-level elements in the order of the format, and where each one stands.

    Whole elements are moved and none is decoded: a decoder keeps one of two equal names, and not the one that MongoDB matches.
    """
    elements = _walk(raw, {})
    names = list(elements)
    middle = names[1:-1]
    if names[:1] != [b"_id"] or names[-1] != b"hmac" or middle != sorted(middle):
        ordered = sorted(names, key=_position)
        raw = raw[:4] + b"".join(raw[slice(*elements[name][::2])] for name in ordered) + b"\x00"
        elements = _walk(raw, {})
    start = len(raw) - _TRAILER_BYTES  # asked of the element: the last bytes may lie inside a longer binary
    if b"hmac" not in elements or elements[b"hmac"][0] != start or not raw.startswith(TAG_HEADER, start):
        raise MalformedEnvelopeError("not a sealed document: it does not end in an hmac of 32 bytes")
    return raw, elements


def _walk(raw: bytes, elements: dict[bytes, _Span]) -> dict[bytes, _Span]:  # noqa: C901 - one loop: every read waits for it
    """Note the top-level elements by name, in the order in which they stand. Raise `MalformedEnvelopeError` if it is not BSON."""
    last = len(raw) - 1
    if last < 4 or _INT32.unpack_from(raw)[0] != len(raw) or raw[last]:
        raise MalformedEnvelopeError("not one whole BSON document")
    start = 4
    while start < last:
        kind = raw[start]
        value = raw.find(b"\x00", start + 1, last) + 1
        if not value:
            raise MalformedEnvelopeError("a field name does not end")
        if kind in _FIXED:
            end = value + _FIXED[kind]
        elif kind in _COUNTED and value + 4 <= last:
            more, least = _COUNTED[kind]
            counted = _INT32.unpack_from(raw, value)[0]
            if counted < least:
                raise MalformedEnvelopeError("an element with an impossible length")
            end = value + more + counted
        elif kind == _REGEX and (pattern_end := raw.find(b"\x00", value, last)) >= 0:
            end = raw.find(b"\x00", pattern_end + 1, last) + 1 or last + 1
        else:
            raise MalformedEnvelopeError("an element of an unknown type, or that does not end")
        if end > last:
            raise MalformedEnvelopeError("an element runs past the end of the document")
        name = raw[start + 1 : value - 1]
        if len(elements) == MAX_ELEMENTS:
            raise MalformedEnvelopeError("more fields than a sealed document can have")
        if name in elements:
            raise MalformedEnvelopeError("a field name occurs twice")
        elements[name] = start, value, end
        start = end
    return elements


def _element(raw: bytes, elements: dict[bytes, _Span], name: bytes) -> bytes:
    """The type byte and the value of one element; nothing if it is not there."""
    if name not in elements:
        return b""
    start, value, end = elements[name]
    return raw[start : start + 1] + raw[value:end]


def _kid(element: bytes) -> str:
    text = element[5:-1].decode("ascii", "replace")
    if element[:1] != b"\x02" or element[-1:] != b"\x00" or not is_kid(text):
        raise MalformedEnvelopeError("kid is not a key id of 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    return text


def _is_idx(idx: object) -> bool:
    """``{kid, <index name>: binary of subtype 0, or an array of them}``, as Python values: only subtype 0 is plain `bytes`."""
    if not isinstance(idx, dict):
        return False
    kids = idx.get("kid")
    if type(kids) is not list:
        kids = [kids]
    if not kids or not all(type(each) is str and is_kid(each) for each in kids) or len(set(kids)) != len(kids):
        return False
    values = [value for name, value in idx.items() if name != "kid"]
    return all(type(each) is bytes for value in values for each in (value if type(value) is list else [value]))


def _check_idx(raw: bytes, idx: object) -> None:
    """Step 5.1 for ``idx``, decoded. ``raw`` shows what decoding hides: a name twice, a symbol in place of a string."""
    if not _is_idx(idx):
        raise MalformedEnvelopeError("idx is not the document that format v1 prescribes")
    kids = _element(raw, _walk(raw, {}), b"kid")
    if kids[0] != _ARRAY:
        _kid(kids)
        return
    for kind, value in _items(kids[1:]):
        _kid(bytes([kind]) + value)


def _items(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and values of an array's elements, whatever their names. `bson.decode` has taken it, so it is well-formed."""
    start = 4
    while start < len(raw) - 1:
        value = raw.index(b"\x00", start + 1) + 1
        end = value + 4 + _INT32.unpack_from(raw, value)[0]
        yield raw[start], raw[value:end]
        start = end


def encode_document(document: Mapping[str, Any]) -> bytes:
    """The BSON of a document that was decoded: ``_id`` first, ``hmac`` last, the rest in order. Its types are Python's now."""
    if not all(isinstance(name, str) for name in document):
        raise MalformedEnvelopeError("not a document: a field name is not text")
    return _encode(
        {name: document[name] for name in sorted(document, key=lambda name: _position(name.encode(errors="surrogatepass")))}
    )


def encodes(value: Any) -> bool:
    """Whether BSON can hold this value."""
    try:
        _encode({"value": value})
    except MalformedEnvelopeError:
        return False
    return True


def _encode(document: dict[str, Any]) -> bytes:
    """Raises after the except block: bson's messages, and their __context__, quote the value."""
    try:
        return bson.encode(document, codec_options=CODEC_OPTIONS)
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise MalformedEnvelopeError("the metadata holds a name or a value that BSON cannot hold")


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        return bson.decode(raw, CODEC_OPTIONS)
    except BSONError:
        pass
    raise MalformedEnvelopeError("a verified document that is not valid BSON inside")
