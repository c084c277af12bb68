"""What an instance remembers: which stored document it stands for, and which revisions that document may have. Pure.

The stored ``hmac`` is new at every write, so it is the revision of a document: `flows` replaces exactly the revision that an
instance was loaded with, and no update is lost.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from .answer import same

__all__ = ["ABSENT", "FRESH", "Content", "Place", "Revision", "as_text", "from_text", "recall", "remember"]

#: The collection's full name, and the context.
Place = tuple[str, str]


class Revision(NamedTuple):
    """One state of a document."""

    tag: bytes | None  #: its ``hmac``; None: there is no such document
    shard: tuple[Any, ...] = ()  #: the stored values of the fields of the shard key


ABSENT: Final = Revision(None)
#: What a new instance stands for.
FRESH: Final = (ABSENT,)


class _Known(set[str]):
    """The set of fields that pydantic keeps with an instance, and with it: which stored document the instance stands for.

    It lives in ``__pydantic_fields_set__`` because that goes along with ``model_copy``, ``deepcopy`` and ``pickle``, and can be
    replaced in a frozen model.
    """

    __slots__ = ("stands_for",)

    stands_for: tuple[Place, Any, tuple[Revision, ...] | bytes]

    def __repr__(self) -> str:
        return repr(set(self))


#: Past frozen, and past a ``__setattr__`` of the model's own.
_keep: Final = BaseModel.__dict__["__pydantic_fields_set__"].__set__


def recall(model: BaseModel, place: Place, identity: Any) -> tuple[Revision, ...]:
    """The revisions that the document of this instance may have, the latest last; `FRESH` for a new one.

    One, normally. Several after a write whose outcome is unknown (a lost reply, an open transaction), `ABSENT` among them if the
    document may not be there. An instance whose ``_id`` has changed since is a new one, as is one from another place.
    """
    known = model.__pydantic_fields_set__
    if isinstance(known, _Known):
        remembered, its_identity, revisions = known.stands_for
        if remembered == place and same(its_identity, identity):
            return (Revision(revisions),) if isinstance(revisions, bytes) else revisions
    return FRESH


def remember(model: BaseModel, place: Place, identity: Any, revisions: tuple[Revision, ...] | bytes) -> None:
    """Note on the instance which document it stands for. Its fields are not touched. ``revisions``: or the tag of the only one."""
    known = _Known(model.__pydantic_fields_set__)
    known.stands_for = (place, identity, revisions)
    _keep(model, known)


class Content(dict[str, Any]):
    """The content of a document, as `load_raw` gives it, and of which document and revision it is."""

    __slots__ = ("identity", "revision")

    identity: Any
    revision: Revision

    def __or__(self, other: dict[str, Any]) -> Content:  # type: ignore[override]  # dict's gives a dict, which would forget
        """With other values, still of that document."""
        merged = Content({**self, **other})
        merged.identity, merged.revision = self.identity, self.revision
        return merged


def as_text(tag: bytes) -> str:
    """A tag as text, 64 hexadecimal digits: fit for an ETag (RFC 9110, 8.8.3), once it stands in double quotes."""
    return tag.hex()


_TEXT: Final = re.compile(r'"([0-9a-f]{64})"|([0-9a-f]{64})')


def from_text(text: str) -> bytes | None:
    """The tag that `as_text` wrote, in the quotes of an ETag or without; None for what it never writes, such as a weak ETag."""
    found = _TEXT.fullmatch(text)
    return bytes.fromhex(found[1] or found[2]) if found else None
