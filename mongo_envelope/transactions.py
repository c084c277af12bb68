"""Transactions: pymongo's, over whatever repositories are given the session.

Two forms, each over either driver. A block (`Transaction`, `AsyncTransaction`) commits at its end and repeats the commit until its
outcome is known; it cannot run itself again. A callback (`run`, `run_async`) can, and pymongo's own ``with_transaction`` does that.

Nothing here knows documents. That what was written may be undone is for `writing`: each instance remembers every tag that its
document may have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pymongo import _csot
from pymongo.errors import OperationFailure, PyMongoError

from .bridge import drive, settle
from .errors import ConfigurationError

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.client_session import ClientSession

__all__ = ["AsyncTransaction", "Transaction", "run", "run_async"]

Result = TypeVar("Result")
#: Seconds in which a commit is repeated, as by pymongo's ``with_transaction`` (specification: Convenient API for Transactions).
_LIMIT: Final = 120.0
_MAX_TIME_EXPIRED: Final = 50
#: IllegalOperation: "Transaction numbers are only allowed on a replica set member or mongos".
_ILLEGAL: Final = 20
_STANDALONE: Final = (
    "transactions need a replica set or a sharded cluster, and this is a single mongod. A replica set may have one member"
)


class _Transaction:
    """What the two kinds of block have in common. Of one use."""

    def __init__(self, client: Any, given: Any, **options: Any) -> None:
        """``given``: a session to be used, or None; ``options``: of pymongo's ``start_transaction``."""
        check(client, given)
        self._client = client
        self._given = given
        self._options = options
        self._session: Any = None

    async def _begin(self) -> Any:
        """Start it. The server hears of it with the first command."""
        session = self._client.start_session() if self._given is None else self._given
        try:
            await settle(session.start_transaction(**self._options))
        except BaseException:
            await self._release(session)
            raise
        self._session = session
        return session

    async def _end(self, error: BaseException | None) -> None:
        """Commit, or after an error abort; neither if the block has done so itself."""
        session, self._session = self._session, None
        try:
            if session.in_transaction:
                await (_commit(session) if error is None else settle(session.abort_transaction()))
        finally:
            await self._release(session)
        if _is_standalone(error):
            raise ConfigurationError(_STANDALONE) from error

    async def _release(self, session: Any) -> None:
        if self._given is None:
            await settle(session.end_session())


async def _commit(session: Any) -> None:
    """Commit, and again while it is unknown whether it was done. A session commits a transaction once, however often it is told."""
    start = time.monotonic()
    while True:
        try:
            await settle(session.commit_transaction())
        except PyMongoError as error:
            if not error.has_error_label("UnknownTransactionCommitResult") or _is_late(error, start):
                raise
        else:
            return


def _is_late(error: PyMongoError, start: float) -> bool:
    """Whether the time is over: ours, that of the server for the commit, or that of a block of ``pymongo.timeout``."""
    left = _csot.remaining()
    expired = isinstance(error, OperationFailure) and error.code == _MAX_TIME_EXPIRED
    return expired or time.monotonic() - start >= _LIMIT or (left is not None and left <= 0)


def check(client: Any, session: Any) -> None:
    """Raise `ConfigurationError` for a session that is not of this client."""
    if session is not None and getattr(session, "client", None) is not client:
        raise ConfigurationError(
            "session= is not of this client: a transaction is within one client, started by its start_session()"
        )


def _is_standalone(error: BaseException | None) -> bool:
    return isinstance(error, OperationFailure) and error.code == _ILLEGAL and "ransaction numbers" in str(error)


class Transaction(_Transaction):
    """A transaction over a ``MongoClient``, as a context manager that gives the session."""

    def __enter__(self) -> ClientSession:
        return drive(self._begin())  # type: ignore[no-any-return]  # of a MongoClient

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        drive(self._end(error))


class AsyncTransaction(_Transaction):
    """A transaction over an ``AsyncMongoClient``, as a context manager that gives the session."""

    async def __aenter__(self) -> AsyncClientSession:
        return await self._begin()  # type: ignore[no-any-return]  # of an AsyncMongoClient

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        await self._end(error)


def run(client: Any, callback: Callable[[ClientSession], Result], given: Any, **options: Any) -> Result:
    """A function in a transaction, by pymongo's ``with_transaction``, which repeats it."""
    check(client, given)
    failed: OperationFailure | None = None
    with contextlib.nullcontext(given) if given is not None else client.start_session() as session:
        try:
            return session.with_transaction(callback, **options)  # type: ignore[no-any-return]  # it gives what the function gives
        except OperationFailure as error:
            if not _is_standalone(error):
                raise
            failed = error
    raise ConfigurationError(_STANDALONE) from failed


async def run_async(client: Any, callback: Callable[[AsyncClientSession], Awaitable[Result]], given: Any, **options: Any) -> Result:
    """As `run`, with a coroutine function."""
    check(client, given)
    failed: OperationFailure | None = None
    async with contextlib.nullcontext(given) if given is not None else client.start_session() as session:
        try:
            return await session.with_transaction(callback, **options)  # type: ignore[no-any-return]  # as in `run`
        except OperationFailure as error:
            if not _is_standalone(error):
                raise
            failed = error
    raise ConfigurationError(_STANDALONE) from failed
