"""A replica set of three nodes on this machine, whose primary can be killed with ``kill -9`` and started again.

::

    with ThreeNodes() as nodes, MongoClient(nodes.uri) as client:
        killed = nodes.kill_primary()
        ...  # the other two elect a new primary: writing again after 2 s
        nodes.restart(killed)
        nodes.wait_until_healthy()

From `mongo_envelope.embedded` come the binary, its environment, most of its options, and the supervisor that is each mongod's
parent: however the process that started them ends, no mongod stays behind.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mongo_envelope import embedded

Answer = TypeVar("Answer")
#: Milliseconds. The defaults, ten seconds and two, make a failover take eleven seconds; these make it take two.
SETTINGS: Final = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 200}


class ThreeNodes:
    """Three mongods that are one replica set. A context manager; healthy inside, and gone with their folder after it."""

    def __init__(self, timeout: float = 60.0) -> None:
        """``timeout``: seconds after which anything that is waited for here is a failure."""
        self._timeout = timeout
        self.ports = _free_ports(3)
        hosts = [f"127.0.0.1:{port}" for port in self.ports]
        self.uri = f"mongodb://{','.join(hosts)}/?replicaSet={embedded._REPLICA_SET}"
        self._members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        self._running: dict[int, embedded._Process] = {}

    def __enter__(self) -> Self:
        self._folder = embedded._private_folder()
        try:
            self._binary, self._environment = embedded._find_mongod(self._folder, time.monotonic() + self._timeout)
            for node in range(3):
                self.restart(node)
            with self._client(0) as client:
                config = {"_id": embedded._REPLICA_SET, "members": self._members, "settings": SETTINGS}
                client.admin.command("replSetInitiate", config)
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.end()  # with its log; what it has stored is below `_folder`
        self._running.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self, node: int) -> None:
        """Start a node that does not run, on its port and with its data, and wait until it listens."""
        assert node not in self._running
        data = self._folder / f"node-{node}"
        data.mkdir(exist_ok=True)
        options = list(embedded._options(self._folder, data, {}, tcp=True))
        options[options.index("--port") + 1] = str(self.ports[node])
        # A folder for each process: its supervisor removes it at the end.
        process = embedded._Process([self._binary, *options], embedded._private_folder(), self._environment, keep=False)
        self._running[node] = process
        embedded._wait_until_listening(process, data, time.monotonic() + self._timeout)

    def kill_primary(self) -> int:
        """Find the primary and kill it with SIGKILL. Which node it was."""
        node = self._wait("no primary", self.primary)
        process = self._running.pop(node)
        assert process.pid is not None
        assert not process.has_ended
        os.kill(process.pid, signal.SIGKILL)
        process.end()
        return node

    def primary(self) -> int | None:
        """The node that says it is the primary, if one does."""
        return next((node for node in range(3) if self._hello(node).get("isWritablePrimary")), None)

    def wait_until_healthy(self) -> None:
        """Wait until there is one primary and the two others follow it."""

        def healthy() -> bool | None:
            hellos = [self._hello(node) for node in range(3)]
            primary = next((hello["me"] for hello in hellos if hello.get("isWritablePrimary")), None)
            followers = [hello for hello in hellos if hello.get("secondary") and hello.get("primary") == primary]
            return True if primary is not None and len(followers) == 2 else None

        self._wait("not healthy", healthy)

    def _hello(self, node: int) -> dict[str, Any]:
        """What a node says about itself; nothing if it does not answer."""
        try:
            with self._client(node) as client:
                return client.admin.command("hello") if node in self._running else {}
        except PyMongoError:
            return {}

    def _client(self, node: int) -> MongoClient[dict[str, Any]]:
        """A client of this node alone, for one question: it keeps nothing from before a restart."""
        return MongoClient("127.0.0.1", self.ports[node], directConnection=True, timeoutMS=5_000)

    def _wait(self, otherwise: str, ask: Callable[[], Answer | None]) -> Answer:
        """The first answer that is not None."""
        deadline = time.monotonic() + self._timeout
        while (answer := ask()) is None:
            for node, process in self._running.items():
                if process.has_ended:
                    embedded._fail(process, f"node {node} ended by itself")
            assert time.monotonic() < deadline, f"{otherwise} after {self._timeout} s"
            time.sleep(0.05)
        return answer


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that systems give to outgoing connections: a killed node needs its own again."""
    free: list[int] = []
    for port in random.sample(range(20_000, 32_000), 12_000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        free.append(port)
        if len(free) == count:
            return free
    raise AssertionError("no free ports")
