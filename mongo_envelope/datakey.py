"""One key and what can be derived from it: a `DataKey` seals and opens documents, an `IndexKey` makes blind index values.

Each is 32 random bytes under a name, its ``kid``. Only `keys` holds them, and lends out what they give in one context:
`WorkingKeys`, or an `Authenticator`. The purposes and their labels are in `primitives`.

Of either there is a restricted form, which holds one working key for each of some contexts, and not the key that they were derived
from: a `VerifyingKey` tags and verifies, a `SearchingKey` makes blind index values. HKDF cannot be turned back.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NoReturn, Self

from . import primitives
from .errors import ConfigurationError, MissingCapabilityError, shortened

__all__ = ["DataKey", "IndexKey", "SearchingKey", "VerifyingKey", "WorkingKeys", "check_context", "check_value", "is_kid"]

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


def check_value(material: bytes) -> bytes:
    """8 bytes that prove, without giving anything away, that this is the key (32 bytes) that was meant."""
    return primitives.derive(material, "check")[:_CHECK_BYTES]


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
        self.check: Final = check_value(material)
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
        return primitives.Authenticator(self._authenticate(context))

    def restricted(self, contexts: Iterable[str]) -> VerifyingKey:
        """What verifies the documents in these contexts, and opens none. Raise `ConfigurationError` for what cannot be one."""
        return VerifyingKey(self.kid, {each: self._authenticate(each) for each in contexts}, created=self.created, check=self.check)

    def _authenticate(self, context: str) -> bytes:
        return primitives.derive(primitives.derive(self._material, "authenticate"), "authenticate", check_context(context))


class IndexKey(_Key):
    """32 bytes under a name, for the values of blind indexes."""

    __slots__ = ()

    def authenticator(self, context: str, index: str, normalizer: str) -> primitives.Authenticator:
        """What makes the values of one index in one context (spec 3.7)."""
        return _of_an_index(self._index(context), context, index, normalizer)

    def restricted(self, contexts: Iterable[str]) -> SearchingKey:
        """What makes the values of every index in these contexts. Raise `ConfigurationError` for what cannot be one."""
        return SearchingKey(self.kid, {each: self._index(each) for each in contexts}, created=self.created, check=self.check)

    def _index(self, context: str) -> bytes:
        return primitives.derive(primitives.derive(self._material, "index"), "index", check_context(context))


def _of_an_index(working: bytes, context: str, index: str, normalizer: str) -> primitives.Authenticator:
    return primitives.Authenticator(primitives.derive(working, "index", context, index, normalizer))


# ---------------------------------------------------------------------------------------------------------------------
# Restricted keys: what was derived, and not what it was derived from.


class _RestrictedKey(primitives.NeverLeaves):
    """One working key (32 bytes) for each of some contexts, under the id and the check value of the key that they are of."""

    __slots__ = ("_working", "check", "created", "kid")

    def __init__(self, kid: str, working: Mapping[str, bytes], *, check: bytes, created: datetime | None = None) -> None:
        """``working``: by context. ``check``: of the whole key, which nobody can compute again from these.

        Raise `ConfigurationError` for what does not fit.
        """
        if not is_kid(kid):
            raise ConfigurationError("a key id is 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        if not isinstance(check, bytes) or len(check) != _CHECK_BYTES:
            raise ConfigurationError(f"key {kid!r}: a check value has {_CHECK_BYTES} bytes")
        if not working:
            raise ConfigurationError(f"key {kid!r}: a restricted key is for one context or more")
        for context, key in working.items():
            check_context(context)
            if not isinstance(key, bytes) or len(key) != primitives.KEY_BYTES:
                raise ConfigurationError(f"key {kid!r}: a key has {primitives.KEY_BYTES} bytes")
        self.kid: Final = kid
        self._working: Final = dict(working)
        self.check: Final = check
        self.created: Final = created

    @property
    def contexts(self) -> tuple[str, ...]:
        """Those that it is for."""
        return tuple(self._working)

    def restricted(self, contexts: Iterable[str]) -> Self:
        """The same for fewer contexts. Raise `MissingCapabilityError` for one that it is not for."""
        return type(self)(self.kid, {each: self._in(each) for each in contexts}, check=self.check, created=self.created)

    def _in(self, context: str) -> bytes:
        key = self._working.get(check_context(context))
        if key is None:
            raise MissingCapabilityError(
                f"the ring is restricted to {_listed(self._working)}, and this is about another context: {shortened(context)}. "
                "keys.restrict(…, contexts=[…]) of the whole ring makes one that has it"
            )
        return key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kid!r})"


class VerifyingKey(_RestrictedKey):
    """Tags and verifies documents in some contexts, and decrypts none. What `DataKey.restricted` gives."""

    __slots__ = ()

    def authenticator(self, context: str) -> primitives.Authenticator:
        """As `DataKey.authenticator`. Raise `MissingCapabilityError` for another context."""
        return primitives.Authenticator(self._in(context))

    def working_keys(self, context: str) -> NoReturn:
        """Raise `MissingCapabilityError`: the key that decrypts is not here."""
        raise MissingCapabilityError(
            f"opening takes the capability 'open', and the key {self.kid} was restricted: it can verify documents of "
            f"{shortened(context)}, and not more"
        )


class SearchingKey(_RestrictedKey):
    """Makes the values of blind indexes in some contexts. What `IndexKey.restricted` gives."""

    __slots__ = ()

    def authenticator(self, context: str, index: str, normalizer: str) -> primitives.Authenticator:
        """As `IndexKey.authenticator`. Raise `MissingCapabilityError` for another context."""
        return _of_an_index(self._in(context), context, index, normalizer)


def _listed(contexts: Iterable[str]) -> str:
    """At most five of them, for a message."""
    names = list(contexts)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the context{'s' if len(names) > 1 else ''} {', '.join(map(shortened, names[:5]))}{more}"
