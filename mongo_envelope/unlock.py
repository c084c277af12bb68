"""The ring of the moment: a key store is unlocked once for each process, and read again now and then.

A key-encryption key (`kms`) wraps one secret, the store's *root*; what is sealed under it (`records`) makes a `KeyRing`.

Two limits. After ``refresh_after`` seconds the records are read again, without the key service: what another process created,
retired or destroyed is known by then. If that fails, the ring that is there goes on serving, until ``expire_after`` seconds after
the root was unwrapped: then it is unwrapped again, or everything stops with `KMSError`. A little before each limit a thread tries
beforehand, so that nobody waits for it. Above stands `keystore`, which makes stores and changes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from . import aside, primitives
from .errors import ConfigurationError, EnvelopeError, IntegrityError, KMSError, MongoEnvelopeError
from .keys import KeyRing
from .kms import KMS
from .records import Contents, Root, is_same, read_contents, read_root
from .storage import Storage, checked_seconds, identity_of

__all__ = ["Unlocked", "checked_kms"]

_log: Final = logging.getLogger(__name__)

#: A kid that is not in the ring is looked for in the store at most once in so many seconds, unless that finds new keys.
_LOOK_AGAIN: Final = 10.0
#: Of the kids that were not in the store so many are remembered.
_MOST_MISSING: Final = 1024
#: After a failure the store is asked again after so many seconds, and not before: it may fail slowly.
_AFTER_FAILURE: Final = 2.0
#: The parts of the two limits after which a thread tries beforehand.
_SOON: Final = 0.7
_EARLY: Final = 0.9
#: So many questions to the key service may be under way. A library of C may wait for its device for ever.
_MOST_ASKED: Final = 8
#: So often the key service is asked, at most, and so often the records are read while others change them.
_ATTEMPTS: Final = 5


class Unlocked(primitives.NeverLeaves):
    """A store that is there, and the ring that it gives. Safe to share between threads, and after a fork."""

    def __init__(
        self,
        storage: Storage,
        kms: KMS | Sequence[KMS],
        *,
        fingerprint: str | None,
        refresh_after: float,
        expire_after: float,
        max_age: timedelta | None,
        timeout: float,
    ) -> None:
        """Check what is configured; nothing is asked yet."""
        self._kms = checked_kms(kms)
        self._expected = _checked_fingerprint(fingerprint)
        self._refresh_after = checked_seconds(refresh_after, "refresh_after")
        self._expire_after = checked_seconds(expire_after, "expire_after")
        self._timeout = checked_seconds(timeout, "timeout")
        if refresh_after > expire_after:
            raise ConfigurationError(
                f"refresh_after is not longer than expire_after, and here they are {refresh_after:g} and {expire_after:g} seconds"
            )
        if max_age is not None and not (isinstance(max_age, timedelta) and max_age > timedelta()):
            raise ConfigurationError("max_age is a timedelta: timedelta(days=365)")
        self._storage = storage
        self._max_age = max_age
        self._held: Root | None = None
        self._unwrapped = self._soon = self._late = self._early = 0.0
        self._missing: dict[str, float] = {}
        self._next_look = 0.0
        self._failure: tuple[float, MongoEnvelopeError] | None = None
        self._warned_of: str | None = None
        self._seen: tuple[Any, ...] | None = None
        self._begin_locks()

    def _begin_locks(self) -> None:
        """Also in a child: a lock that another thread of the parent held would stay locked."""
        self._turn = threading.RLock()
        self._guard = threading.Lock()
        self._renewal: Future[None] | None = None
        self._asked: list[Future[bytes]] = []
        _stores.add(self)

    # --- the ring of the moment ---------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether `ring` would have to ask somebody, now."""
        now = _clock()
        if now < self._soon:
            return False
        if now < self._late:
            with contextlib.suppress(RuntimeError):  # no more threads: for want of room, or because the interpreter ends
                self._renew_in_thread()  # nobody waits for it
            return False
        return True

    @property
    def held(self) -> KeyRing:
        """The ring as it is, however old."""
        return self._ring

    def ring(self) -> KeyRing:
        """The ring of the moment. Raise `KMSError` if it has expired, and cannot be renewed."""
        if self.due:
            self._renew()
        return self._ring

    async def renewed(self) -> KeyRing:
        """As `ring`, for those who run an event loop: it is waited for in a thread."""
        if self.due:
            await asyncio.wrap_future(self._renew_in_thread())
        return self._ring

    def refresh(self) -> KeyRing:
        """Read the records again, now. Raise `KMSError` if that is not possible, or if what is held has expired."""
        with self._turn:
            if (now := _clock()) < self._expires:
                self._take(self._storage.read(), now)
            else:
                self._renew()
            return self._ring

    async def refreshed(self) -> KeyRing:
        """As `refresh`, for those who run an event loop."""
        return await asyncio.to_thread(self.refresh)

    def look_for(self, kid: str) -> KeyRing:
        """The ring, read again for the sake of a kid that it does not hold, unless that was done a short while ago.

        Whoever writes documents can name any kid in them: so it is done once in ten seconds at most. A look that finds new keys
        does not count.
        """
        if not self._worth_a_look(kid):  # without waiting for somebody who asks the key service
            return self._ring
        with self._turn:
            if not self._worth_a_look(kid):
                return self._ring
            now = _clock()
            self._next_look = now + _LOOK_AGAIN
            before = self._ring
            try:
                self._take(self._storage.read(), now)
            except KMSError as error:
                _log.warning("%s", error)
                return self._ring
            if {*self._ring, *self._ring.index_keys} - {*before, *before.index_keys}:
                self._next_look = 0.0
            if not self.knows(kid):
                if len(self._missing) >= _MOST_MISSING:
                    self._missing.clear()
                self._missing[kid] = now + self._refresh_after
            return self._ring

    async def looked_for(self, kid: str) -> KeyRing:
        """As `look_for`, for those who run an event loop."""
        return await asyncio.to_thread(self.look_for, kid) if self._worth_a_look(kid) else self._ring

    def knows(self, kid: str) -> bool:
        """Whether there is such a key, for documents or for index values, or was one."""
        ring = self._ring
        return kid in ring or kid in ring._index_keys or kid in ring.destroyed

    def _worth_a_look(self, kid: str) -> bool:
        now = _clock()
        return not self.knows(kid) and now >= self._next_look and now >= self._missing.get(kid, 0.0)

    def _renew(self) -> None:
        """One at a time, and whoever waited finds it done."""
        with self._turn:
            now = _clock()
            if now < self._soon:
                return
            if self._failure is not None and now < self._failure[0]:
                raise _anew(self._failure[1])
            try:
                self._renew_now(now)
            except (KMSError, ConfigurationError, EnvelopeError) as error:
                again = _clock() + _AFTER_FAILURE
                self._failure = again, _anew(error)
                if not isinstance(error, KMSError):
                    # The records were edited: what is there serves as long as it would have, anyway.
                    self._soon = min(again, self._late)
                    raise
                if _clock() >= self._expires:
                    raise
                _log.warning("%s; the keys that were read before go on serving for %d s", error, self._expires - _clock())
                self._soon = min(again, self._expires)
                self._late = min(max(again, _clock() + self._refresh_after), self._expires)

    def _renew_now(self, now: float) -> None:
        """Read the records and, if it is time, unwrap the root: in this order, as the key service may take its time."""
        begun = _clock()
        raws, expired = self._storage.read(), now >= self._expires
        if not expired:
            self._take(raws, begun)
            if now < self._early:
                return
        try:
            self._unlock(raws, begun)
        except (KMSError, ConfigurationError, EnvelopeError) as error:
            if _clock() >= self._expires:
                raise
            self._early = _clock() + _AFTER_FAILURE
            _log.warning("%s; the root that was unwrapped before goes on serving for %d s", error, self._expires - _clock())
        else:
            self._take(raws, begun)

    def _renew_in_thread(self) -> Future[None]:
        with self._guard:
            if self._renewal is None or self._renewal.done():
                self._renewal = aside.begin(self._renew, "mongo_envelope renews")
            return self._renewal

    def _take(self, raws: Sequence[bytes], begun: float) -> None:
        """Make the ring of what was read, unless it is the one that is there. ``begun``: when, for answers take time."""
        sealed, contents = self._consistent(raws)
        too_old = self._age(contents)
        if self._seen != (sealed, too_old):
            self._ring = contents.ring(too_old)
            self._contents, self._seen = contents, (sealed, too_old)
        self._failure = None
        self._late = min(begun + self._refresh_after, self._expires)
        # Not all processes that were started together at the same moment.
        self._soon = begun + (self._late - begun) * random.uniform(_SOON - 0.1, _SOON)  # noqa: S311 - a moment, and no secret

    def _consistent(self, raws: Sequence[bytes]) -> tuple[list[bytes], Contents]:
        """The records but that of the root. They are not read at one moment: while others change them, they may disagree."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return self._read(raws)
            except IntegrityError:
                time.sleep(0.02 * attempt)
            raws = self._storage.read()
        return self._read(raws)

    def _read(self, raws: Sequence[bytes]) -> tuple[list[bytes], Contents]:
        sealed = [raw for raw in raws if identity_of(raw) != "root"]
        return sealed, read_contents(sealed, self._root)

    def _age(self, contents: Contents) -> str | None:
        """Why the primary key does not seal any longer, if so."""
        if self._max_age is None or contents.roles is None:
            return None
        primary = contents.keys[contents.roles.primary]
        age = datetime.now(UTC) - primary.created
        if age >= self._max_age:
            return f"the primary key {primary.kid} is older than max_age, {self._max_age}: rotate_data_key() makes another one"
        if age >= 0.9 * self._max_age and self._warned_of != primary.kid:
            self._warned_of = primary.kid
            left = self._max_age - age
            _log.warning("the primary key %s reaches max_age in %s: rotate_data_key() makes another one", primary.kid, left)
        return None

    @property
    def _expires(self) -> float:
        return self._unwrapped + self._expire_after

    # --- the root -----------------------------------------------------------------------------------------------------

    @property
    def _root(self) -> Root:
        if self._held is None:
            raise AssertionError  # nothing is done with a store before it is unlocked
        return self._held

    def _unlock(self, raws: Sequence[bytes], begun: float) -> None:
        """Hold the root of these records, which were read at that time: `KeyStore.destroy_key` counts on when that expires."""
        self._held, self._unwrapped = self._unwrap(raws), begun
        self._early = begun + _EARLY * self._expire_after

    def _unwrap(self, raws: Sequence[bytes]) -> Root:
        """The root: of this store, and the one that the configuration names."""
        found = [raw for raw in raws if identity_of(raw) == "root"]
        if len(found) != 1:
            raise IntegrityError("the root record is missing, or there are two: restore the store").about(document_id="root")
        record = read_root(found[0])
        # What is stored decides nothing: not whom to ask, and not for which key.
        kms = next((each for each in self._kms if is_same(each.identity, record.kms)), None)
        if kms is None:
            known = " or ".join(str(dict(each.identity)) for each in self._kms)
            raise ConfigurationError(
                f"the root of {self._storage} is not wrapped by the key-encryption key of this configuration: {known}. "
                "Configure the one that the store was made with: this may be another one, or a new one that create=True "
                "made where the old one is lost. After a rewrap, configure the new one; otherwise somebody has edited the root "
                "record. Nothing was asked"
            )
        if kms.public and self._expected is None:
            raise ConfigurationError(
                "anybody can wrap for a key-encryption key of an asymmetric kind: give the fingerprint that was logged when the "
                "store was made"
            )
        root = Root.of_secret(self._ask(lambda: kms.unwrap(record.wrapped)), record.store)
        if root is None:
            raise IntegrityError(
                f"what was unwrapped is not the root of {self._storage}, but another store's, or somebody has put it there"
            )
        if self._expected is not None and not hmac.compare_digest(root.fingerprint, self._expected):
            raise IntegrityError(
                f"the root of {self._storage} does not have the fingerprint of this configuration: it is another store, or "
                "somebody has put another root there. Nothing was opened with it. Find out which before you change the fingerprint"
            )
        if self._held is not None and not hmac.compare_digest(self._held.secret, root.secret):
            raise IntegrityError(f"the root of {self._storage} is another one than before. If that is right, start anew")
        return root

    def _ask(self, question: Callable[[], bytes]) -> bytes:
        """Ask the key service, again where that may help; `KMSError` after ``timeout`` seconds at most.

        In a thread of its own, for what it runs may be a library of C that waits for a device. Whatever is raised is raised anew:
        what was asked stands in the frames of the question, and may be the secret.
        """
        self._asked = [each for each in self._asked if not each.done()]
        if len(self._asked) >= _MOST_ASKED:
            raise KMSError(f"the key service has not answered the last {_MOST_ASKED} questions yet", temporary=True)
        answer = aside.begin(lambda: _again(question, self._timeout), "mongo_envelope asks")
        self._asked.append(answer)
        try:
            return answer.result(self._timeout)
        except KMSError as error:
            problem, temporary = str(error), error.temporary
        except ConfigurationError as error:  # a provider's own: no such key, no token
            problem, temporary = str(error), False
        except TimeoutError:
            problem, temporary = f"the key service did not answer within {self._timeout:g} s", True
        except Exception as error:  # noqa: BLE001 - a provider of somebody else's; the text is not known to be harmless
            problem, temporary = f"the key service could not be asked: {type(error).__name__}", False
        raise KMSError(problem, temporary=temporary)


_stores: Final[weakref.WeakSet[Unlocked]] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store._begin_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_HAS_BOOTTIME: Final = hasattr(time, "CLOCK_BOOTTIME")


def _clock() -> float:
    """Seconds that pass while the machine sleeps, too, where it has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _HAS_BOOTTIME else time.monotonic()


def _again(question: Callable[[], bytes], seconds: float) -> bytes:
    """Ask, and ask again for what is temporary. Where stamina is not installed there is no provider that needs it."""
    try:
        import stamina  # noqa: PLC0415 - of the extras that have a service to ask
    except ImportError:
        return _bytes(question())
    again = stamina.retry(on=_is_temporary, attempts=_ATTEMPTS, timeout=seconds, wait_initial=0.05, wait_max=2.0)
    return again(lambda: _bytes(question()))()


def _bytes(answer: object) -> bytes:
    if not isinstance(answer, bytes):
        raise KMSError("the key service did not answer with bytes")
    return answer


def _anew(error: MongoEnvelopeError) -> MongoEnvelopeError:
    """The same error for somebody else, without the frames of the first."""
    same = type(error)(*error.args)
    vars(same).update(vars(error))
    return same


def _is_temporary(error: Exception) -> bool:
    return isinstance(error, KMSError) and error.temporary


def checked_kms(kms: KMS | Sequence[KMS]) -> tuple[KMS, ...]:
    """One key-encryption key, or several; `ConfigurationError` for what is none."""
    given = tuple(kms) if isinstance(kms, Sequence) else (kms,)
    if not given or not all(isinstance(each, KMS) and not isinstance(each, type) for each in given):
        raise ConfigurationError('kms= takes a key-encryption key: LocalKMS.from_file("kek.json", create=True), or another of kms')
    return given


def _checked_fingerprint(fingerprint: str | None) -> bytes | None:
    if fingerprint is None:
        return None
    try:
        expected = bytes.fromhex(fingerprint)
    except (ValueError, TypeError):
        expected = b""
    if len(expected) != _FINGERPRINT_BYTES:
        raise ConfigurationError("fingerprint= is the one that was logged when the store was made: 32 hexadecimal digits")
    return expected


_FINGERPRINT_BYTES: Final = 16
