"""How large a sealed document may be, and what to say of one that is larger: which fields make it so. Used by `writing`.

It is asked before anything is sent: pymongo itself stops at 16 MiB and 16,382 bytes, and the server refuses what it has received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json, to_json

from . import envelope
from .schema import Schema

__all__ = ["MAX_BYTES", "NEVER_TOO_LARGE", "complaint", "excess"]

#: MongoDB's limit for the BSON of one document (manual: Limits and Thresholds, BSON Document Size).
MAX_BYTES: Final = 16 * 1024 * 1024
#: An _id that counts twice is in it, too.
NEVER_TOO_LARGE: Final = MAX_BYTES // 2
#: So long an ``_id`` (in bytes of BSON) may be beside a document of that size. It is sent, and logged, twice: in the filter of a
#: replacement, where pymongo has room for 16,382 bytes, and in the oplog, whose entries have 16 KiB more than documents
#: (BSONObjMaxInternalSize in the server's source). What else stands there, hmacs and names, took 510 bytes of it at most, tried on
#: mongod 6.0.5 with inserts, replacements, upserts and bulk writes, in transactions too. The rest is for longer names and hmacs.
_BESIDE: Final = 14 * 1024
_OWN: Final = frozenset(name.encode() for name in envelope.RESERVED - {"_id"})
_LARGEST: Final = 3  # fields that are named


def excess(raw: bytes) -> int:
    """How many bytes a sealed document has too many, if that is more than 0."""
    if len(raw) <= NEVER_TOO_LARGE:
        return 0
    start, _, end = envelope._walk(raw, {})[b"_id"]
    return len(raw) - MAX_BYTES + max(0, end - start - _BESIDE)


def complaint(schema: Schema[Any], raw: bytes, opened: envelope.Opened) -> str:
    """How much too large a document is, why, and what to do: names of fields of the model and numbers, no value."""
    over = excess(raw)
    fields = _sizes(schema, raw, opened.payload).most_common(_LARGEST)
    named = [f"{name} ({count:,} bytes)" for name, count in fields if count >= fields[0][1] // 10]
    padding = len(opened.payload) - len(opened.payload.rstrip(b" "))
    padded = f"; {padding:,} of them are padding" + (", without which it would fit" if padding >= over else "") if padding else ""
    twice = f", counting the _id twice where it is longer than {_BESIDE:,}" if over > len(raw) - MAX_BYTES else ""
    return (
        f"the sealed document has {len(raw):,} bytes, {over:,} more than MongoDB takes{twice}{padded}. The largest "
        f"{'field is' if len(named) == 1 else 'fields are'} {', '.join(named)}. Split it into several documents; what is put into "
        "GridFS or an object store instead is not sealed by this package"
    )


def _sizes(schema: Schema[Any], raw: bytes, payload: bytes) -> Counter[str]:
    """The bytes of each field, in the clear and in the payload."""
    sizes: Counter[str] = Counter()
    for stored, (start, _, end) in envelope._walk(raw, {}).items():
        if stored == b"idx":
            sizes["the blind indexes"] += end - start
        elif stored not in _OWN and (field := schema.field(stored.decode())) is not None:
            sizes[field.name] += end - start
    content: Mapping[str, Any] = from_json(payload, allow_inf_nan=True)
    for name, value in content.items():
        known = name in schema.model.model_fields
        sizes[name if known else "values beside the fields"] += len(to_json(value, inf_nan_mode="constants"))
    return sizes
