"""One key and what can be derived from it: a `DataKey` seals and opens documents, an `IndexKey` makes blind index values.

Each is 32 random bytes under a name, its ``kid``. Only `keys` holds them, and lends out what they give in one context:
`WorkingKeys`, or an `Authenticator`. The purposes and their labels are in `primitives`.
"""

from __future__ import annotations

import hmac
import re
import secrets
from datetime import UTC, datetime
from typing import Final, Self

from . import primitives
from .errors import ConfigurationError

__all__ = ["DataKey", "IndexKey", "WorkingKeys", "check_context", "is_kid"]

_KID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_CHECK_BYTES: Final = 8


def is_kid(text: object) -> bool:
    """Whether this is a well-formed key id: 1 to 64 ASCII letters, digits, ``_``, ``.`` or ``-``."""
    return isinstance(text, str) and _KID.fullmatch(text) is not None


def check_context(context: object) -> str:
    """The context as it is, or `ConfigurationError`: text whose UTF-8 has 1 to 255 bytes."""
    if not isinstance(context, str):
        raise ConfigurationError("context= must be text: the name under which this collection's keys are derived")
    try:
        size = len(context.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= 255:
        raise ConfigurationError("context= must be valid text of 1 to 255 bytes of UTF-8")
    return context


class WorkingKeys(primitives.NeverLeaves):
    """What one data key gives in one context: the only form in which `envelope` meets a key."""

    __slots__ = ("authenticator", "cipher")

    def __init__(self, encrypt: bytes, authenticator: primitives.Authenticator) -> None:
        """Take what `DataKey` derives: a key of 32 bytes, and what tags under the other one."""
        self.cipher: Final = primitives.StreamCipher(encrypt)
        self.authenticator: Final = authenticator

    def __repr__(self) -> str:
        return "WorkingKeys(…)"


class _Key(primitives.NeverLeaves):
    """32 bytes under a name. Its ``check`` value proves, without giving anything away, that it is the key that was meant."""

    __slots__ = ("_material", "check", "created", "kid")

    def __init__(self, kid: str, material: bytes, *, created: datetime | None = None, check: bytes | None = None) -> None:
        """Raise `ConfigurationError` if the id, the length or the check value (8 bytes) does not fit."""
        if not is_kid(kid):
            raise ConfigurationError("a key id is 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        if not isinstance(material, bytes) or len(material) != primitives.KEY_BYTES:
            raise ConfigurationError(f"key {kid!r}: a key has {primitives.KEY_BYTES} bytes")
        self.kid: Final = kid
        self._material: Final = material
        self.created: Final = created
        self.check: Final = primitives.derive(material, "check")[:_CHECK_BYTES]
        if check is not None and not (isinstance(check, bytes) and hmac.compare_digest(check, self.check)):
            raise ConfigurationError(
                f"key {kid!r}: the material does not match its check value, so this is not the key that was stored under "
                "this id. Restore the key file from its backup"
            )

    @classmethod
    def generate(cls, kid: str | None = None) -> Self:
        """A new key from the operating system's generator; without ``kid``, under a random id of 16 hex digits."""
        created = datetime.now(UTC).replace(microsecond=0)
        return cls(kid or secrets.token_hex(8), secrets.token_bytes(primitives.KEY_BYTES), created=created)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kid!r})"


class DataKey(_Key):
    """32 bytes under a name, for sealing and opening documents."""

    __slots__ = ()

    def working_keys(self, context: str) -> WorkingKeys:
        """The keys of this data key for documents in one context. Raise `ConfigurationError` for what cannot be a context."""
        encrypt = primitives.derive(primitives.derive(self._material, "encrypt"), "encrypt", check_context(context))
        return WorkingKeys(encrypt, self.authenticator(context))

    def authenticator(self, context: str) -> primitives.Authenticator:
        """What tags the documents in one context, and verifies their tags."""
        authenticate = primitives.derive(primitives.derive(self._material, "authenticate"), "authenticate", check_context(context))
        return primitives.Authenticator(authenticate)


class IndexKey(_Key):
    """32 bytes under a name, for the values of blind indexes."""

    __slots__ = ()

    def authenticator(self, context: str, index: str, normalizer: str) -> primitives.Authenticator:
        """What makes the values of one index in one context (spec 3.7)."""
        working = primitives.derive(primitives.derive(self._material, "index"), "index", check_context(context))
        return primitives.Authenticator(primitives.derive(working, "index", context, index, normalizer))
