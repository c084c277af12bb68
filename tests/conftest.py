"""One real mongod for the whole run, a database for each test, and one way to write a test for both drivers.

A test that takes ``driver`` runs twice, over a ``MongoClient`` and over an ``AsyncMongoClient``. It is one ``async def``::

    async def test_save_and_load(driver):
        customers = driver.repository(Customer)
        ada = await customers.save(customer())
        assert await customers.load(ada.id) == ada

How: ``driver.repository`` wraps the repository in `Either`, whose methods can be awaited whatever they give; over the sync
driver `settle`, the function that the package itself is built on, passes their results on. The hook at the end of this file
runs every ``async def`` test in the one event loop of the session, so no plugin is needed, and the sync driver does not mind.
What a test does behind the repository's back (tamper, count, look) it does with ``database``, over the sync driver.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import select
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar
from urllib.parse import unquote
from uuid import uuid4

import pymongo.network_layer
import pytest
from pydantic import BaseModel
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from mongo_envelope import AsyncRepository, DocumentCodec, KeyRing, Repository, embedded
from mongo_envelope.bridge import drive, settle

Model = TypeVar("Model", bound=BaseModel)
Client = MongoClient[dict[str, Any]] | AsyncMongoClient[dict[str, Any]]


class Either:
    """A repository, cursor, stream or bulk writer of either driver, to be awaited and iterated as if it were of the async one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not inspect.ismethod(found):
            return found
        if name in ("revision", "mend", "needs_rotation"):  # not awaited in either driver, like those that follow
            return found
        if name in ("find", "sort", "skip", "limit", "with_options", "bulk"):
            return lambda *args, **options: Either(found(*args, **options))
        if name == "watch":
            return functools.partial(self._either, found)
        if name == "transaction":
            return lambda **options: block(found(**options))

        async def call(*args: Any, **options: Any) -> Any:
            return await settle(found(*args, **options))

        return call

    @staticmethod
    async def _either(found: Any, *args: Any, **options: Any) -> Either:
        return Either(await settle(found(*args, **options)))

    def __getitem__(self, index: Any) -> Any:
        found = self.inner[index]
        return self if found is self.inner else found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if hasattr(self.inner, "__anext__"):
            return await anext(self.inner)
        try:
            return next(self.inner)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        entered = await self.inner.__aenter__() if hasattr(self.inner, "__aenter__") else self.inner.__enter__()
        assert entered is self.inner
        return self

    async def __aexit__(self, *error: object) -> None:
        await settle((self.inner.__aexit__ if hasattr(self.inner, "__aexit__") else self.inner.__exit__)(*error))


async def saved(repository: Either, models: Iterable[Model], **options: Any) -> list[Model]:
    """These, saved by `save_many`."""
    given = list(models)
    result = await repository.save_many(given, **options)
    assert result.saved_count == len(given)
    return given


@asynccontextmanager
async def block(inner: Any) -> AsyncIterator[Any]:
    """A context manager of either kind, as one of the async kind."""
    if hasattr(inner, "__aenter__"):
        async with inner as entered:
            yield entered
    else:
        with inner as entered:
            yield entered


class Driver:
    """One of the two drivers: its client, and this test's database over it."""

    def __init__(self, client: Client, database: Database[dict[str, Any]], keys: KeyRing) -> None:
        self.client = client
        self.keys = keys
        self.is_async = isinstance(client, AsyncMongoClient)
        self._database = database

    def collection(self, name: str = "customers", client: Client | None = None) -> Any:
        """A collection of this driver, or of another client of its kind."""
        return (client or self.client)[self._database.name][name]

    def repository(self, model: type[BaseModel], collection: Any = None, **options: Any) -> Any:
        """A repository of this driver's kind, for the collection ``customers`` by default."""
        kind: Any = AsyncRepository if self.is_async else Repository
        target = self.collection() if collection is None else collection
        return Either(kind(model, target, **{"keys": self.keys, **options}))

    def function(self, body: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """A function for the repository to call, of a body that uses the repository: a coroutine function for the async driver."""
        return body if self.is_async else lambda *args: drive(body(*args))

    def everything(self, model: type[BaseModel]) -> list[Any]:
        """All documents, opened without either driver's repository."""
        codec = DocumentCodec(model, keys=self.keys, context="customers")
        return [codec.open(document) for document in self._database.customers.find()]

    @asynccontextmanager
    async def another_client(self, uri: str, **options: Any) -> AsyncIterator[Client]:
        """A client of this driver's kind with other options, closed at the end."""
        client: Client = AsyncMongoClient(uri, **options) if self.is_async else MongoClient(uri, **options)
        try:
            yield client
        finally:
            await settle(client.close())

    @asynccontextmanager
    async def transaction(self, *, commit: bool = True) -> AsyncIterator[Any]:
        """A session in a transaction, which is committed or aborted at the end."""
        session = self.client.start_session()
        try:
            await settle(session.start_transaction())
            yield session
            await settle(session.commit_transaction() if commit else session.abort_transaction())
        finally:
            await settle(session.end_session())


class Proxy:
    """Stands between a client and the server, passes everything on, and lies when it is told to. A context manager."""

    def __init__(self, server: embedded.Server) -> None:
        self.swap = (b"", b"")  #: in each answer, a document and another one of its size that takes its place
        self.lose = False  #: whether the answer to the next insert or update is lost, and the connection with it
        self._server = unquote(server.uri.partition("//")[2].partition("/")[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._connections: list[socket.socket] = []
        self._over = False
        self.uri = f"mongodb://127.0.0.1:{self._address[1]}/?directConnection=true"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        socket.create_connection(self._address).close()  # wakes `_accept`
        self._threads[0].join()
        self._listener.close()
        for near in self._connections:
            with suppress(OSError):  # closed already, as a rule
                near.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            near = self._listener.accept()[0]
            if self._over:
                near.close()
                return
            self._connections.append(near)
            self._threads.append(threading.Thread(target=self._pass_on, args=(near,), daemon=True))
            self._threads[-1].start()

    def _pass_on(self, near: socket.socket) -> None:
        """One connection, until one of the two sides closes it."""
        losing = False
        with near, socket.socket(socket.AF_UNIX) as far, suppress(ConnectionError):
            far.connect(self._server)
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(1 << 20)
                    if not data or (ready is far and losing):
                        return
                    if ready is far:
                        near.sendall(data.replace(*self.swap) if self.swap[0] else data)
                        continue
                    if self.lose and (b"\x02insert\0" in data or b"\x02update\0" in data):
                        self.lose, losing = False, True
                    far.sendall(data)


def in_threads(count: int, work: Callable[[], None]) -> None:
    """The same work in so many threads, to its end. What one of them raises fails the test: pytest's warning is an error."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="session")
def server() -> Iterator[embedded.Server]:
    """A throw-away mongod in which failures can be injected (`fail_command`)."""
    with embedded.start(use_environment=False, parameters={"enableTestCommands": "1"}) as server:
        yield server


@pytest.fixture(scope="session")
def standalone() -> Iterator[str]:
    """The URI of a mongod that is in no replica set."""
    folder = embedded._private_folder()
    data = folder / "db"
    data.mkdir()
    deadline = time.monotonic() + 30
    binary, environment = embedded._find_mongod(folder, deadline)
    options = list(embedded._options(folder, data, {}, tcp=True))
    at = options.index("--replSet")
    process = embedded._Process([binary, *options[:at], *options[at + 2 :]], folder, environment, keep=False)
    try:
        yield f"mongodb://127.0.0.1:{embedded._wait_until_listening(process, data, deadline)}/"
    finally:
        process.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The one event loop: an ``AsyncMongoClient`` belongs to the loop that it was first used in."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def client(server: embedded.Server) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the sync driver."""
    with MongoClient[dict[str, Any]](server.uri, tz_aware=True, uuidRepresentation="standard") as client:
        yield client


@pytest.fixture(scope="session")
def async_client(server: embedded.Server, runner: asyncio.Runner) -> Iterator[AsyncMongoClient[dict[str, Any]]]:
    """A client of the async driver."""
    # A loop that stands still while others are tested is no server that is lost: after 20 s the monitor would take it for one.
    client = AsyncMongoClient[dict[str, Any]](server.uri, connectTimeoutMS=3_600_000)
    yield client
    runner.run(client.close())


@pytest.fixture
def database(client: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    """An empty database for this test alone, over the sync driver."""
    name = f"test-{uuid4().hex[:12]}"
    yield client[name]
    client.drop_database(name)


@pytest.fixture(scope="session")
def keys() -> KeyRing:
    """A ring with one key."""
    return KeyRing.generate()


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest, database: Database[dict[str, Any]], keys: KeyRing) -> Driver:
    """Each of the two drivers in turn."""
    client = request.getfixturevalue("client" if request.param == "sync" else "async_client")
    return Driver(client, database, keys)


@pytest.fixture
def proxy(server: embedded.Server) -> Iterator[Proxy]:
    """A man in the middle."""
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture
def fail_command(client: MongoClient[dict[str, Any]]) -> Iterator[Callable[..., None]]:
    """``fail_command(["insert"], closeConnection=True)``: make the next such command of a client with ``appName="fails"`` fail."""

    def fail(commands: list[str], *, times: int = 1, **how: Any) -> None:
        data = {"failCommands": commands, "appName": "fails", **how}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)

    yield fail
    client.admin.command("configureFailPoint", "failCommand", mode="off")


def pytest_configure(config: pytest.Config) -> None:
    """A client notices soon that it has lost its server, and asks it again soon. The long campaigns keep pymongo's own pauses.

    pymongo takes half a second for each, to spare a server in trouble; that of these tests is back at once. The package knows
    neither, and nothing else in pymongo depends on them; with the second, ``heartbeatFrequencyMS`` may be less than 500, too.
    """
    if config.getoption("markexpr") != "soak":
        pymongo.network_layer._POLL_TIMEOUT = pymongo.common.MIN_HEARTBEAT_INTERVAL = 0.03  # seconds


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test in the session's event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    runner: asyncio.Runner = pyfuncitem._request.getfixturevalue("runner")
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    runner.run(pyfuncitem.obj(**given))
    return True
