"""The key file: a ring as JSON, material included. `keys` says what is in it; here it is written out and parsed.

Not every name that a file could have is known to every release, so each version has its own, exactly these.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from .datakey import DataKey, IndexKey, SearchingKey, VerifyingKey, _Key, _RestrictedKey, check_value
from .errors import ConfigurationError
from .private_file import unique_names

__all__ = ["parsed", "written_out"]

T = TypeVar("T")
Key = TypeVar("Key", bound=_Key)
Restricted = TypeVar("Restricted", bound=_RestrictedKey)


def written_out(content: Mapping[str, Any]) -> bytes:
    """A key file of this content, in which the keys are still objects."""
    return json.dumps(content, indent=1, default=_entry).encode() + b"\n"


def _entry(key: _Key | _RestrictedKey) -> dict[str, Any]:
    entry: dict[str, Any] = {"kid": key.kid, "check": key.check.hex(), "created": key.created and key.created.isoformat()}
    if isinstance(key, _RestrictedKey):
        return entry | {"contexts": {context: _working_entry(working) for context, working in key._working.items()}}
    return entry | {"material": base64.b64encode(key._material).decode()}


def _working_entry(working: bytes) -> dict[str, str]:
    """With a check value of its own: that of the whole key does not tell whether this is what was written."""
    return {"key": base64.b64encode(working).decode(), "check": check_value(working).hex()}


def parsed(content: bytes, ring_of: Callable[..., T]) -> T | str:
    """The ring in a key file, as ``ring_of`` (`KeyRing`) makes it, or what is wrong with it.

    Nothing is raised from here: a traceback would keep this frame, and with it the material, for whoever collects local variables;
    and the parsers' messages quote what they read.
    """
    try:
        ring = json.loads(content, object_pairs_hook=unique_names)
        version = ring["version"]
        if type(version) is not int:
            return _DAMAGED
        if version not in _FIELDS:
            return f"has version {version}, and this package reads versions 1, 2 and 3"
        if ring.keys() != _FIELDS[version]:
            return _DAMAGED
        if version == 3:
            return _restricted(ring, ring_of)
        if type(ring["primary"]) is not str:
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
    3: {"version", "capabilities", "contexts", "keys", "index_keys", "search_by", "written"},
}


_CHECK: Final = re.compile("[0-9a-f]{16}", re.ASCII)


def _check_of(entry: dict[str, Any]) -> bytes:
    if not _CHECK.fullmatch(entry["check"]):
        raise ValueError
    return bytes.fromhex(entry["check"])


def _moment(text: object) -> datetime | None:
    """A date and time that says where, or None."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)  # type: ignore[arg-type]  # of what is no text: TypeError
    if moment.utcoffset() is None:
        raise ValueError
    return moment


def _key(kind: type[Key], entry: dict[str, Any]) -> Key:
    """One key of a file. An entry that says more than this version knows may say that the key must not be used: `ValueError`."""
    if entry.keys() != {"kid", "material", "check", "created"}:
        raise ValueError
    created = _moment(entry["created"])
    material = base64.b64decode(entry["material"], validate=True)
    return kind(entry["kid"], material, created=created, check=_check_of(entry))


def _restricted(ring: dict[str, Any], ring_of: Callable[..., T]) -> T | str:
    """The ring in a file of version 3, or what is wrong with it; or raise what `parsed` takes for that."""
    lists = [ring[name] for name in ("keys", "index_keys", "capabilities", "contexts", "written")]
    if not all(type(each) is list for each in lists):
        return _DAMAGED
    capabilities, search_by, written = ring["capabilities"], ring["search_by"], ring["written"]
    roles = [*written, *([] if search_by is None else [search_by])]
    if not all(type(each) is str for each in (*capabilities, *roles)) or bool(ring["index_keys"]) != (search_by is not None):
        return _DAMAGED
    contexts = {*ring["contexts"]}
    if (
        len({*capabilities}) != len(capabilities)
        or len(contexts) != len(ring["contexts"])
        or any(each["contexts"].keys() != contexts for each in (*ring["keys"], *ring["index_keys"]))
    ):
        return _DAMAGED
    if "metadata" in capabilities and "verify" not in capabilities:  # the one brings the other along
        return _DAMAGED
    return ring_of(
        [_restricted_key(VerifyingKey, each, ring["contexts"]) for each in ring["keys"]],
        index_keys=[_restricted_key(SearchingKey, each, ring["contexts"]) for each in ring["index_keys"]],
        search_by=search_by,
        written=written,
        capabilities=capabilities,
    )


def _restricted_key(kind: type[Restricted], entry: dict[str, Any], contexts: Sequence[str]) -> Restricted:
    """One key of such a file. As `_key`."""
    if entry.keys() != {"kid", "check", "created", "contexts"}:
        raise ValueError
    working = {context: _working_key(entry["contexts"][context]) for context in contexts}
    created = _moment(entry["created"])
    return kind(entry["kid"], working, created=created, check=_check_of(entry))


def _working_key(entry: dict[str, Any]) -> bytes:
    if entry.keys() != {"key", "check"}:
        raise ValueError
    working = base64.b64decode(entry["key"], validate=True)
    if not hmac.compare_digest(check_value(working), _check_of(entry)):  # a ValueError if it is not 32 bytes
        raise ValueError
    return working
