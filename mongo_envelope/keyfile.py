"""The key file: a ring as JSON, material included. `keys` says what is in it; here it is written out and parsed.

Not every name that a file could have is known to every release, so each version has its own, exactly these.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from .datakey import DataKey, IndexKey, _Key
from .errors import ConfigurationError

__all__ = ["parsed", "written_out"]

T = TypeVar("T")
Key = TypeVar("Key", bound=_Key)


def written_out(
    keys: Sequence[DataKey], primary: str, index_keys: Sequence[IndexKey], search_by: str | None, written: Sequence[str]
) -> bytes:
    """A key file of version 1, or, with index keys, 2."""
    content = {"version": 1, "primary": primary, "keys": list(map(_entry, keys))}
    if index_keys:
        content |= {
            "version": 2,
            "index_keys": list(map(_entry, index_keys)),
            "search_by": search_by,
            "written": written,
        }
    return json.dumps(content, indent=1).encode() + b"\n"


def _entry(key: _Key) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "material": base64.b64encode(key._material).decode(),
        "check": key.check.hex(),
        "created": key.created and key.created.isoformat(),
    }


def parsed(content: bytes, ring_of: Callable[..., T]) -> T | str:
    """The ring in a key file, as ``ring_of`` (`KeyRing`) makes it, or what is wrong with it.

    Nothing is raised from here: a traceback would keep this frame, and with it the material, for whoever collects local variables;
    and the parsers' messages quote what they read.
    """
    try:
        ring = json.loads(content)
        version = ring["version"]
        if type(version) is not int:
            return _DAMAGED
        if version not in _FIELDS:
            return f"has version {version}, and this package reads versions {' and '.join(map(str, _FIELDS))}"
        if ring.keys() != _FIELDS[version] or type(ring["primary"]) is not str:
            return _DAMAGED
        keys = [_key(DataKey, entry) for entry in ring["keys"]]
        if version == 1:
            return ring_of(keys, primary=ring["primary"])
        index_keys = [_key(IndexKey, entry) for entry in ring["index_keys"]]
        roles = [ring["search_by"], *ring["written"]]
        if not index_keys or not all(type(each) is str for each in roles):
            return _DAMAGED
        return ring_of(keys, primary=ring["primary"], index_keys=index_keys, search_by=roles[0], written=roles[1:])
    except ConfigurationError as error:
        return f"does not fit: {error}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _DAMAGED


_DAMAGED: Final = "is not a key file, or is damaged. Restore it from its backup; do not make a new one over it"


#: version of a key file → the names in it. A ring without index keys is written as version 1, which earlier releases read.
_FIELDS: Final = {
    1: {"version", "primary", "keys"},
    2: {"version", "primary", "keys", "index_keys", "search_by", "written"},
}


def _key(kind: type[Key], entry: dict[str, Any]) -> Key:
    """One key of a file. An entry that says more than this version knows may say that the key must not be used: `ValueError`."""
    if entry.keys() != {"kid", "material", "check", "created"}:
        raise ValueError
    created = entry["created"] and datetime.fromisoformat(entry["created"])
    material = base64.b64decode(entry["material"], validate=True)
    return kind(entry["kid"], material, created=created, check=bytes.fromhex(entry["check"]))
