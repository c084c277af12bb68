"""One coroutine body, two drivers.

In pymongo the sync and the async collection share every public name and parameter, so a flow is written once::

    async def load(self, id):
        document = await settle(self.collection.find_one({"_id": id}))

The async shell awaits it. The sync shell `drive`s it: nothing in it ever waits, so one ``send(None)`` runs it to its end.
No event loop, no thread, no generated twin.

What a flow must not do: hold a lock, gather, sleep, or use ``async for`` and ``async with``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, Final, TypeVar, cast

__all__ = ["SLICE", "drive", "settle"]

T = TypeVar("T")
#: Seconds for which work may keep the event loop from other tasks, at most, but for the time that one document takes.
SLICE: Final = 0.002


async def settle(result: Awaitable[T] | T) -> T:
    """Await what is awaitable, pass on what is not."""
    if hasattr(type(result), "__await__"):
        return await cast("Awaitable[T]", result)
    return cast("T", result)


def drive(flow: Coroutine[Any, Any, T]) -> T:
    """Run a flow over a synchronous driver to its end and give its result."""
    try:
        flow.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    flow.close()
    raise RuntimeError("a flow over a synchronous driver waited for something")
