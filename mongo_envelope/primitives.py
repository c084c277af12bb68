"""Bytes in, bytes out: the four cryptographic operations of format v1, and every label that separates their keys.

`derive` makes keys; `StreamCipher` encrypts and decrypts under one, `Authenticator` tags under another. Nothing here knows what
a document, a key ring or MongoDB is. Used by `keys`, which lends both to `envelope`.

    pack(p…)  = for each part: its length as uint32 big-endian, then its bytes        injective, so no two lists meet
    K_purpose = HKDF-SHA-256(key,       salt = empty, info = pack("mongo_envelope/v1", purpose))
    K_working = HKDF-SHA-256(K_purpose, salt = empty, info = pack("mongo_envelope/v1", purpose, context))
    K_i       = HKDF-SHA-256(K_working, salt = empty, info = pack("mongo_envelope/v1", "index", context, name, normaliser id))

Sources: HKDF RFC 5869, HMAC RFC 2104 and FIPS 198-1, CTR mode NIST SP 800-38A section 6.5.
"""

from __future__ import annotations

import os
import time
from typing import Final, Literal, NoReturn

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = [
    "IV_BYTES",
    "KEY_BYTES",
    "PURPOSES",
    "TAG_BYTES",
    "Authenticator",
    "FreshIVs",
    "NeverLeaves",
    "Purpose",
    "StreamCipher",
    "derive",
    "fresh_iv",
    "pack",
]

KEY_BYTES: Final = 32
IV_BYTES: Final = 16
TAG_BYTES: Final = 32

_LABEL: Final = b"mongo_envelope/v1"

#: No key is ever used under two of these.
Purpose = Literal[
    "encrypt",  # AES-256-CTR of a document's payload
    "authenticate",  # HMAC-SHA-256 over a stored document
    "index",  # HMAC-SHA-256 of a blind index value
    "fingerprint",  # the public name of a store's root key
    "check",  # the public proof that this is the key which was meant
    "value-encrypt",  # AES-256-CTR of a single value in an SQL column
    "value-authenticate",  # HMAC-SHA-256 over such a value
    "wrap",  # AES-256-GCM of a key store's root under a local key-encryption key
]
PURPOSES: Final[frozenset[str]] = frozenset(Purpose.__args__)  # type: ignore[attr-defined]  # typing.Literal's documented runtime form

#: purpose → how many parts follow it in the steps of its derivation: none, a context, a context and an index
_PARTS: Final = dict.fromkeys(PURPOSES, (0, 1)) | {"fingerprint": (0,), "check": (0,), "wrap": (0,), "index": (0, 1, 3)}


def pack(*parts: bytes) -> bytes:
    """Each part behind its length (uint32 big-endian), so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def derive(key: bytes, purpose: Purpose, *parts: str) -> bytes:
    """The 32-byte key for one purpose or, with a context, the working key for one purpose in one context.

    With a context, ``key`` is a purpose key, as derived by a first call without; with a context, the name of a blind index and the
    id of its normaliser, it is the working key of the purpose ``index`` (RFC 5869, salt empty).
    """
    if purpose not in PURPOSES or len(parts) not in _PARTS[purpose] or len(key) != KEY_BYTES:
        raise ValueError("not a purpose of format v1, one that has no context, or a key that is not 32 bytes")
    info = pack(_LABEL, purpose.encode(), *(part.encode() for part in parts))
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


class NeverLeaves:
    """Refuses the ways in which Python objects leave a process by accident: pickle, copy, deepcopy."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled or copied: it holds keys. Pass it on, or load it anew")

    def __getstate__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce_ex__(None)


class StreamCipher(NeverLeaves):
    """AES-256-CTR under one key. The 16-byte ``iv`` is the first counter block; the whole block counts up, big-endian, and wraps.

    The caller never uses one ``iv`` twice under one key: `envelope.seal` draws it at random for each document.

    Making a context costs three times what encrypting a small document does, so contexts are used again. Each is *taken out*
    while it is in use: no other thread, and no signal handler or finalizer that runs in between, can come between setting the
    nonce and using it, which would be a two-time pad. A fork has a list of its own, and every message sets its own nonce.
    """

    __slots__ = ("_idle", "_key")

    def __init__(self, key: bytes) -> None:
        """Take a 32-byte key."""
        self._key = key
        self._idle: list[CipherContext] = []

    def encrypt(self, iv: bytes, plaintext: bytes) -> bytes:
        """The ciphertext, as long as the plaintext."""
        try:
            context = self._idle.pop()
            context.reset_nonce(iv)
        except IndexError:
            context = Cipher(AES(self._key), CTR(iv)).encryptor()
        result = context.update(plaintext)
        self._idle.append(context)
        return result

    #: The inverse, which in this mode is the same. Of unauthenticated bytes it makes other bytes and no error: verify first.
    decrypt = encrypt


#: So many IVs are drawn at a time, and for so many seconds they are used.
_DRAWN: Final = 64
_LASTING: Final = 0.005


_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - a process has one
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def fresh_iv() -> bytes:
    """16 random bytes for one document."""
    return os.urandom(IV_BYTES)


class FreshIVs(NeverLeaves):
    """IVs for many documents that are sealed one after the other: random, and each given once.

    They are drawn several at a time because each draw (`os.urandom`) gives up the interpreter: where another thread waits for
    that, sealing takes twice as long. What has been drawn is thrown away after a fork, so that two processes never have the same,
    and after a few milliseconds, so that hardly a snapshot of a machine has any in it. (A single document's IV is drawn for it.)
    """

    __slots__ = ("_process", "_ready", "_until")

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._ready: list[bytes] = []
        self._process, self._until = (-1, -1), 0.0

    def take(self) -> bytes:
        """16 random bytes, which nobody else gets."""
        # By its number, as some servers fork without telling Python; by what Python counts, as namespaces use numbers again.
        process = (os.getpid(), _forks)
        if process == self._process and time.monotonic() < self._until:
            try:
                return self._ready.pop()  # in one step: no two threads get the same
            except IndexError:
                pass
        drawn = os.urandom(_DRAWN * IV_BYTES)
        self._ready = [drawn[begin : begin + IV_BYTES] for begin in range(IV_BYTES, len(drawn), IV_BYTES)]
        self._process, self._until = process, time.monotonic() + _LASTING
        return drawn[:IV_BYTES]


class Authenticator(NeverLeaves):
    """HMAC-SHA-256 under one key, which is worked in once and copied for each message. Safe to share between threads."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        """Take a 32-byte key."""
        self._keyed = HMAC(key, SHA256())

    def tag(self, message: bytes | memoryview) -> bytes:
        """All 32 bytes. Compare with ``hmac.compare_digest`` only."""
        context = self._keyed.copy()
        context.update(message)
        return context.finalize()
