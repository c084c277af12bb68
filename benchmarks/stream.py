"""How much memory it takes to stream many documents in and out: ``python -m benchmarks.stream URI COUNT sync|async``.

In a process of its own, whose memory nothing else has touched. A generator hands over customers, each of them made when it is asked
for; then all are read, one by one. Prints one line of JSON: MB, and seconds.

Growth is what is resident at most, beyond what was so after a part of the documents (a fifth, at most 20,000) had gone both ways:
by then every buffer has the size that it keeps. What the buffers take until then is given, too.
"""

import asyncio
import gc
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self
from uuid import uuid4

import psutil
from pymongo import AsyncMongoClient, MongoClient

from examples.customers import Customer, make_customers
from mongo_envelope import AsyncRepository, KeyRing, Repository

MB = 1_000_000


class Meter:
    """The most memory that was resident while it was open, in MB: looked at every 5 ms by a thread."""

    def __enter__(self) -> Self:
        self.most, self._over = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.most = max(self.most, resident())


def resident() -> float:
    """MB of this process."""
    return float(psutil.Process().memory_info().rss) / MB


def people(count: int) -> Iterator[Customer]:
    """Made one after the other."""
    for template in itertools.islice(itertools.cycle(TEMPLATES), count):
        yield template.model_copy(update={"id": uuid4()})


TEMPLATES = make_customers(1_000)


def synchronous(uri: str, stack: ExitStack) -> tuple[Callable[[int], int], Callable[[], int], Callable[[], Any]]:
    """How to save so many, to read all, and to delete them, over the sync driver."""
    collection = stack.enter_context(MongoClient[dict[str, Any]](uri)).bench.stream
    repository = Repository(Customer, collection, keys=KeyRing.generate())

    def save(count: int) -> int:
        repository.save_many(people(count))
        return repository.count()

    return save, lambda: sum(1 for _ in repository.find()), lambda: repository.delete_many({})


def asynchronous(uri: str, stack: ExitStack) -> tuple[Callable[[int], int], Callable[[], int], Callable[[], Any]]:
    """The same over the async driver."""
    runner = stack.enter_context(asyncio.Runner())
    client = AsyncMongoClient[dict[str, Any]](uri)
    stack.callback(lambda: runner.run(client.close()))
    repository = AsyncRepository(Customer, client.bench.stream, keys=KeyRing.generate())

    async def save(count: int) -> int:
        await repository.save_many(people(count))
        return await repository.count()

    async def read() -> int:
        number = 0
        async for _ in repository.find():
            number += 1
        return number

    return lambda count: runner.run(save(count)), lambda: runner.run(read()), lambda: runner.run(repository.delete_many({}))


def measure(uri: str, count: int, driver: str) -> dict[str, float]:
    """Raise ``SystemExit`` if not all of them were saved and came back."""
    with ExitStack() as stack:
        save, read, delete = (synchronous if driver == "sync" else asynchronous)(uri, stack)
        stack.callback(delete)
        save(1)
        read()
        gc.collect()
        before = resident()
        save(min(count // 5, 20_000))
        read()
        delete()
        gc.collect()
        settled = resident()
        found: dict[str, float] = {"documents": count, "settled": settled - before}
        for name, work in (("save_many", lambda: save(count)), ("find", read)):
            began = time.perf_counter()
            with Meter() as meter:
                done = work()
            if done != count:
                raise SystemExit(f"{name}: {done} documents instead of {count}")
            found |= {name: meter.most - settled, f"{name} seconds": time.perf_counter() - began}
    return found


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
