"""One coroutine body, two drivers: `settle` and `drive`."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from typing import Any

import pytest

from mongo_envelope.bridge import drive, settle


class Slow:
    """Awaitable, and not at once."""

    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return "slow"


async def later() -> str:
    await asyncio.sleep(0)
    return "later"


@pytest.mark.parametrize("value", [None, 5, "text", [1], {"a": 1}, object(), StopIteration])
def test_settle_passes_on_what_cannot_be_awaited(value: object) -> None:
    """A result of the synchronous driver comes through as the same object."""
    assert drive(settle(value)) is value


def test_settle_awaits_what_can_be_awaited() -> None:
    """A coroutine, a future and any object with __await__ are awaited."""

    async def flow() -> list[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        return [await settle(later()), await settle(future), await settle(Slow())]

    assert asyncio.run(flow()) == ["later", "future", "slow"]


def test_drive_gives_the_result_of_a_flow_that_awaits_other_flows() -> None:
    """A flow that calls flows runs to its end without an event loop."""

    async def inner(value: int) -> int:
        return await settle(value) + 1

    async def outer() -> int:
        return await inner(await inner(1))

    assert drive(outer()) == 3


def test_drive_raises_what_the_flow_raises() -> None:
    """An exception comes out as the same object, its traceback intact."""
    error = KeyError("x")

    async def flow() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        drive(flow())
    assert caught.value is error
    assert caught.traceback[-1].name == "flow"


def test_a_flow_that_raises_stop_iteration_does_not_look_finished() -> None:
    """StopIteration inside a flow is an error, and never taken for its result."""

    async def flow() -> None:
        raise StopIteration("a value")

    with pytest.raises(RuntimeError, match="StopIteration"):
        drive(flow())


@pytest.mark.parametrize("awaited", [later, Slow])
def test_a_flow_that_waits_is_refused_and_closed(awaited: Any) -> None:
    """Where a synchronous flow waits it is closed, its finally blocks run, and nothing is left to warn about."""
    ended: list[str] = []

    async def flow() -> None:
        try:
            await settle(awaited())
        finally:
            ended.append("closed")

    waiting = flow()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="waited for something"):
            drive(waiting)
    assert ended == ["closed"]
    assert waiting.cr_frame is None
