"""What the tests of key stores share: a storage in memory, and key services that count, fail, sleep, or let anybody wrap."""

from __future__ import annotations

import base64
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import bson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from mongo_envelope import envelope
from mongo_envelope.errors import KMSError
from mongo_envelope.keystore import KeyStore
from mongo_envelope.kms import LocalKMS
from mongo_envelope.storage import identity_of

Document = dict[str, Any]


class Memory:
    """A storage in memory, which can be shared by stores. ``before`` is called ahead of each operation, with its name."""

    def __init__(self, records: Iterable[bytes] = ()) -> None:
        self.records = {identity_of(raw): raw for raw in records}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self._one_at_a_time = threading.Lock()

    def __str__(self) -> str:
        return "memory"

    def read(self) -> list[bytes]:
        self._called("read")
        return list(self.records.values())

    def insert(self, raw: bytes) -> bool:
        self._called("insert")
        return self.records.setdefault(identity_of(raw), raw) is raw

    def replace(self, raw: bytes, before: bytes) -> bool:
        self._called("replace")
        with self._one_at_a_time:
            if self.records.get(identity_of(before)) != before:
                return False
            self.records[identity_of(before)] = raw
            return True

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)

    def edit(self, identity: str, **names: Any) -> None:
        """Change fields of a record, as somebody without keys can."""
        self.records[identity] = encoded(decoded(self.records[identity]) | names)


class Service:
    """A key service around a `LocalKMS`, as anybody can write one: counts, and does what ``before`` says ahead of each answer."""

    public = False

    def __init__(self, inner: LocalKMS | None = None, **identity: Any) -> None:
        self.inner = inner or LocalKMS.generate()
        self.identity: Mapping[str, Any] = {**self.inner.identity, **identity}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda name: None

    def wrap(self, secret: bytes) -> bytes:
        self.calls.append("wrap")
        self.before("wrap")
        return self.inner.wrap(secret)

    def unwrap(self, wrapped: bytes) -> bytes:
        self.calls.append("unwrap")
        self.before("unwrap")
        return self.inner.unwrap(wrapped)

    def down(self, *, temporary: bool = False, slow: float = 0.0) -> None:
        """From now on it says that it is on fire."""

        def fail(name: str) -> None:
            time.sleep(slow)
            raise KMSError("the service says: on fire", temporary=temporary)

        self.before = fail

    def up(self) -> None:
        """As before."""
        self.before = lambda name: None


class PublicService:
    """A key-encryption key of an asymmetric kind (RSA-OAEP, RFC 8017): whoever knows the public half can wrap."""

    public = True

    def __init__(self, key: rsa.RSAPrivateKey | None = None) -> None:
        self._key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._padding = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        self.identity = {"provider": "rsa", "key": "1"}
        self.calls: list[str] = []

    def wrap(self, secret: bytes) -> bytes:
        self.calls.append("wrap")
        return self._key.public_key().encrypt(secret, self._padding)

    def unwrap(self, wrapped: bytes) -> bytes:
        self.calls.append("unwrap")
        return self._key.decrypt(wrapped, self._padding)


class Clock:
    """In the place of ``unlock._clock``: the real one, moved on by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def store(storage: Any, kms: Any, **options: Any) -> KeyStore:
    """A key store over any storage."""
    return KeyStore(storage, kms=kms, **{"create": True, **options})


def decoded(raw: bytes) -> Document:
    return bson.decode(raw, envelope.CODEC_OPTIONS)


def encoded(document: Mapping[str, Any]) -> bytes:
    return bson.encode(document, codec_options=envelope.CODEC_OPTIONS)


def assert_no_frame_has(error: BaseException, *secrets: bytes) -> None:
    """Neither the error, nor what it follows from, nor a frame of a provider has a secret, in any form."""
    assert error.__context__ is None
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [str(frame.locals) for frame in frames.stack if "mongo_envelope/kms" in frame.filename]
    for secret in secrets:
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert form not in str(error)
            assert all(form not in each for each in ours)
