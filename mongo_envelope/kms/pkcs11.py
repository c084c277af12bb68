"""A key-encryption key in a hardware security module (or SoftHSM), over PKCS#11 2.40: an AES-256 key that never leaves the token.

    AES-GCM  wrapped = 01 || nonce (12 random bytes of ours) || ciphertext || tag of 16 bytes, with associated data
    AES-KWP  wrapped = 02 || RFC 5649 of (length as uint32 big-endian || secret || zeros to a multiple of 8)

GCM is C_Encrypt and C_Decrypt. KWP is C_WrapKey and C_UnwrapKey: tokens wrap keys with it, not bytes, so the secret becomes
a generic key of the session, which ends with it. The length is in there because SoftHSM 2.6 gives a key back with its padding.

A call opens a session and closes it. Login is the whole process's (PKCS#11 2.40 base, 5.6), so one call runs at a time.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from mongo_envelope import primitives
from mongo_envelope.errors import ConfigurationError, KMSError

from .asking import Credential, bounded, check_timeout, extra

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]  # there is none

__all__ = ["PKCS11KMS"]

_ASSOCIATED: Final = b"mongo_envelope/kms/pkcs11/1"
_NONCE_BYTES: Final = 12
_LENGTH_BYTES: Final = 4
#: Seconds between looks for the token, from the last to the first. SoftHSM has not all of it if another process logged in
#: in the moment in which it read the token's file, and does not look again; other libraries do not see a token that came later.
_WAITS: Final = (0.3, 0.1, 0.02)
_TRIAL: Final = bytes(32)
_VERSION: Final = {"AES-GCM": b"\x01", "AES-KWP": b"\x02"}

#: What may be over when it is asked again. Names of python-pkcs11's errors, which are those of the CKR_ codes.
_TEMPORARY: Final = frozenset(
    (
        *("DeviceError", "DeviceMemory", "DeviceRemoved", "FunctionCancelled", "FunctionFailed", "GeneralError", "HostMemory"),
        *("OperationActive", "SessionClosed", "SessionCount", "SessionHandleInvalid", "TokenNotPresent"),
    )
)
_PIN: Final = {
    "PinIncorrect": "the token refused the PIN; it is not tried again, as a token locks itself after a few",
    "PinInvalid": "the token refused the PIN; it is not tried again, as a token locks itself after a few",
    "PinLenRange": "the token refused the PIN, whose length cannot be right",
    "PinLocked": "the PIN is locked, after too many wrong ones: the security officer has to set it anew",
    "PinExpired": "the PIN has expired: the security officer has to set it anew",
    "UserPinNotInitialized": "the token has no user PIN yet: the security officer has to set it",
}

#: library → who is logged in at the moment. The state that it guards is the library's, and as wide as the process.
_logins: Final[dict[str, threading.Lock]] = {}
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_logins.clear)


@contextlib.contextmanager
def _alone(library: str) -> Iterator[None]:
    """No other process of this machine makes a key by this library meanwhile. Of two machines each may make one: that is told."""
    with contextlib.ExitStack() as held:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # the loader finds it elsewhere, or it cannot be read
                fcntl.flock(held.enter_context(Path(library).open("rb")), fcntl.LOCK_EX)
        yield


class PKCS11KMS(primitives.NeverLeaves):
    """An AES-256 key of a token, by its label. Needs the extra ``pkcs11``.

    ``PKCS11KMS("/usr/lib/softhsm/libsofthsm2.so", token="shop", key="kek", pin_env="HSM_PIN")``. The token is first asked
    by `wrap` or `unwrap`.
    """

    __slots__ = ("_create", "_key", "_library", "_mechanism", "_pin", "_pkcs11", "_refused", "_timeout", "_token")

    def __init__(
        self,
        library: str | os.PathLike[str],
        *,
        token: str,
        key: str,
        pin: str | Callable[[], str] | None = None,
        pin_env: str | None = None,
        mechanism: Literal["AES-GCM", "AES-KWP"] = "AES-GCM",
        timeout: float = 5.0,
        create: bool = False,
    ) -> None:
        """Name the vendor's library (a path, or what the system's loader finds), and the labels of the token and the key.

        ``pin``: the user's PIN, or what gives it; ``pin_env``: the environment variable that holds it; neither: no login.
        ``timeout``: seconds for a whole call, waiting for other calls of this process included. ``create``: if the token has no
        such key, `wrap` makes one: sensitive, not extractable; before, it begins the library anew, which ends sessions of the
        application's own. Raise `ConfigurationError`.
        """
        self._pkcs11: Final = extra("pkcs11", "pkcs11")
        self._library: Final = os.fspath(library)
        self._token: Final = token
        self._key: Final = key
        self._mechanism: Final = mechanism
        self._timeout: Final = check_timeout(timeout)
        self._create: Final = create
        self._refused: str | None = None
        if os.sep in self._library and not Path(self._library).is_file():
            raise ConfigurationError(f"there is no PKCS#11 library {self._library!r}: the HSM's vendor says where it is")
        for name, label in (("token", token), ("key", key)):
            if not isinstance(label, str) or not label:
                raise ConfigurationError(f"{name}= is the label of the {name}, a text")
        if mechanism not in _VERSION:
            raise ConfigurationError('mechanism= is "AES-GCM" or "AES-KWP"')
        if pin is not None and pin_env is not None:
            raise ConfigurationError("pin= or pin_env=, not both")
        self._pin: Final = Credential("pin", pin, pin_env)

    @property
    def identity(self) -> Mapping[str, Any]:
        """``{"provider": "pkcs11", "token": label, "key": label, "mechanism": …}``. Where the library is may change."""
        return {"provider": "pkcs11", "token": self._token, "key": self._key, "mechanism": self._mechanism}

    @property
    def public(self) -> bool:
        """No: who wraps has to use the key. Keys of an asymmetric kind are refused."""
        return False

    def wrap(self, secret: bytes) -> bytes:
        """The secret, encrypted in the token. Raise `KMSError`, or `ConfigurationError` if the token has no key that is fit."""
        made = not self._create

        def work(session: Any) -> bytes | None:
            found = self._labelled(session)
            return self._encrypted(session, self._fit(found), secret) if found or made else None

        def make(session: Any) -> None:
            nonlocal made
            self._make(session)
            made = True  # not before: where the device was lost, it is made in the next turn

        return bounded(lambda: self._in_turn(work, make), self._timeout, repr(self))

    def unwrap(self, wrapped: bytes) -> bytes:
        """The secret, decrypted in the token. Raise as `wrap` does, also for what was not wrapped by this key, or was changed."""

        def work(session: Any) -> bytes:
            key = self._fit(self._labelled(session))
            if wrapped[:1] == _VERSION[self._mechanism]:
                with contextlib.suppress(self._pkcs11.PKCS11Error):
                    return self._decrypted(session, key, wrapped)
                # Tokens say "general error" for a tag that does not fit. If they can do it with this, it is not their fault.
                self._decrypted(session, key, self._encrypted(session, key, _TRIAL))
            raise KMSError(f"this was not wrapped by {self!r}, or was changed since")

        return bounded(lambda: self._in_turn(work, self._make), self._timeout, repr(self))

    def __repr__(self) -> str:
        return f"PKCS11KMS(token={self._token!r}, key={self._key!r}, mechanism={self._mechanism!r})"

    # --- within the time, one at a time ---

    def _in_turn(self, work: Callable[[Any], bytes | None], make: Callable[[Any], None]) -> bytes:
        """What ``work`` gives in a session; if that is None, once ``make`` has made the key."""
        turn = _logins.setdefault(self._library, threading.Lock())
        if not turn.acquire(timeout=self._timeout):
            raise KMSError(f"{self!r}: another call of this process has not ended", temporary=True)
        try:
            pin, anew = self._pin_now(), True
            while True:
                name, words = "", ""
                try:
                    result: bytes | None = self._in_session(work, pin, rw=False)
                    if result is not None:
                        return result
                    with _alone(self._library):
                        self._forget()  # and see what another process may have made
                        self._in_session(make, pin, rw=True)
                except self._pkcs11.PKCS11Error as error:
                    name, words = type(error).__name__, str(error)
                if name:
                    lost = name in _TEMPORARY or "not initialized" in words
                    if lost:
                        self._forget()
                    if not (lost and anew):
                        break
                    anew = False  # once in a call
        finally:
            turn.release()
        raise self._told(name, words)

    def _forget(self) -> None:
        """Let the library begin anew: the device or its state is lost, or it has to see what is there now."""
        with contextlib.suppress(self._pkcs11.PKCS11Error):  # it is not initialized, it says; and now python-pkcs11 knows, too
            self._pkcs11.lib(self._library).finalize()

    def _in_session(self, work: Callable[[Any], Any], pin: str | None, *, rw: bool) -> Any:
        waits = list(_WAITS)
        while (session := self._opened(pin, rw=rw, last=not waits)) is None:
            time.sleep(waits.pop())
            self._forget()
        try:
            return work(session)
        finally:
            with contextlib.suppress(self._pkcs11.PKCS11Error):  # it may be gone already
                session.close()

    def _opened(self, pin: str | None, *, rw: bool, last: bool) -> Any:
        """A session; None, unless this is the last try, if the token does not seem to be there."""
        tokens = list(self._pkcs11.lib(self._library).get_tokens(token_label=self._token))
        if not tokens and not last:
            return None
        if len(tokens) != 1:
            number = "more than one token" if tokens else "no token"
            raise ConfigurationError(f"{self._library} has {number} with the label {self._token!r}")
        errors = self._pkcs11.exceptions
        try:
            return tokens[0].open(rw=rw, user_pin=pin)
        except errors.UserAlreadyLoggedIn:  # the application itself, whose login is ours
            return tokens[0].open(rw=rw)
        except self._pkcs11.PKCS11Error as error:
            if isinstance(error, errors.UserPinNotInitialized) and not last:
                return None
            if isinstance(error, errors.PinIncorrect | errors.PinInvalid | errors.PinLenRange):
                self._refused = pin
            raise

    def _pin_now(self) -> str | None:
        pin = self._pin.get()
        if pin is None or self._refused is None or not hmac.compare_digest(pin.encode(), self._refused.encode()):
            return pin
        raise KMSError(f"{self!r}: {_PIN['PinIncorrect']}")

    def _told(self, name: str, words: str) -> KMSError | ConfigurationError:
        """An error of the library's, as ours. Of its words only those about loading are shown."""
        if "while loading" in words:
            return ConfigurationError(f"cannot load the PKCS#11 library: {words}")
        if name in _PIN:
            return KMSError(f"{self!r}: {_PIN[name]}")
        if name == "PKCS11Error":  # a code without a class of its own
            name = words
        return KMSError(f"{self!r}: {name}", temporary=name in _TEMPORARY or "initialized" in words)

    # --- in a session ---

    def _labelled(self, session: Any) -> list[Any]:
        p = self._pkcs11
        kinds = {p.ObjectClass.SECRET_KEY, p.ObjectClass.PUBLIC_KEY, p.ObjectClass.PRIVATE_KEY}
        found = list(session.get_objects({p.Attribute.LABEL: self._key}))
        return [each for each in found if each.object_class in kinds]

    def _fit(self, found: list[Any]) -> Any:
        """The only one that was found, if it is fit."""
        p = self._pkcs11
        if not found:
            raise ConfigurationError(
                f"the token {self._token!r} has no key with the label {self._key!r}. If there is a key store already, restore "
                "the token from its backup; for a new one, PKCS11KMS(…, create=True) makes it"
            )
        if len(found) > 1:
            raise ConfigurationError(f"the token {self._token!r} has more than one key with the label {self._key!r}")
        key, what = found[0], f"the key {self._key!r} of the token {self._token!r}"
        if key.object_class is not p.ObjectClass.SECRET_KEY or key.key_type is not p.KeyType.AES or key.key_length != 256:
            raise ConfigurationError(f"{what} is not an AES key of 256 bits: keys of another kind do not wrap a key store")
        if not key[p.Attribute.SENSITIVE] or key[p.Attribute.EXTRACTABLE]:
            raise ConfigurationError(f"{what} can be taken out of the token: it must be sensitive and not extractable")
        needed = ("encrypt", "decrypt") if self._mechanism == "AES-GCM" else ("wrap_key", "unwrap_key")
        if not all(hasattr(key, verb) for verb in needed):  # python-pkcs11 gives a key the verbs that its attributes allow
            raise ConfigurationError(f"{what} is not made for {self._mechanism}: its attributes do not allow it")
        return key

    def _make(self, session: Any) -> None:
        """Make the key, if there is none by now."""
        if self._labelled(session):
            return
        p = self._pkcs11
        use = p.MechanismFlag
        session.generate_key(
            p.KeyType.AES,
            256,
            id=secrets.token_bytes(8),
            label=self._key,
            store=True,
            capabilities=use.ENCRYPT | use.DECRYPT if self._mechanism == "AES-GCM" else use.WRAP | use.UNWRAP,
            template={p.Attribute.SENSITIVE: True, p.Attribute.EXTRACTABLE: False},
        )

    def _encrypted(self, session: Any, key: Any, secret: bytes) -> bytes:
        p = self._pkcs11
        if self._mechanism == "AES-GCM":
            nonce = os.urandom(_NONCE_BYTES)
            return _VERSION["AES-GCM"] + nonce + bytes(key.encrypt(secret, **self._gcm(nonce)))
        content = len(secret).to_bytes(_LENGTH_BYTES, "big") + secret
        content += bytes(-len(content) % 8)
        inner = session.create_object(
            {
                p.Attribute.CLASS: p.ObjectClass.SECRET_KEY,
                p.Attribute.KEY_TYPE: p.KeyType.GENERIC_SECRET,
                p.Attribute.TOKEN: False,
                p.Attribute.PRIVATE: True,
                p.Attribute.SENSITIVE: False,
                p.Attribute.EXTRACTABLE: True,
                p.Attribute.VALUE: content,
            }
        )
        return _VERSION["AES-KWP"] + bytes(key.wrap_key(inner, mechanism=self._kwp(session)))

    def _decrypted(self, session: Any, key: Any, wrapped: bytes) -> bytes:
        p = self._pkcs11
        if self._mechanism == "AES-GCM":
            begin = 1 + _NONCE_BYTES
            return bytes(key.decrypt(wrapped[begin:], **self._gcm(wrapped[1:begin])))
        inner = key.unwrap_key(
            p.ObjectClass.SECRET_KEY,
            p.KeyType.GENERIC_SECRET,
            wrapped[1:],
            mechanism=self._kwp(session),
            store=False,
            template={p.Attribute.SENSITIVE: False, p.Attribute.EXTRACTABLE: True},
        )
        content = bytes(inner[p.Attribute.VALUE])
        return content[_LENGTH_BYTES:][: int.from_bytes(content[:_LENGTH_BYTES], "big")]

    def _gcm(self, nonce: bytes) -> dict[str, Any]:
        parameters = self._pkcs11.mechanisms.GCMParams(nonce, _ASSOCIATED, 128)
        return {"mechanism": self._pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}

    def _kwp(self, session: Any) -> Any:
        """By its newer name, or by the one under which SoftHSM and others have it."""
        known = session.token.slot.get_mechanisms()
        mechanism = self._pkcs11.Mechanism
        return mechanism.AES_KEY_WRAP_KWP if mechanism.AES_KEY_WRAP_KWP in known else mechanism.AES_KEY_WRAP_PAD
