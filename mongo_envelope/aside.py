"""Work in a thread that nobody has to wait for: a key service that may never answer, the next batch of a cursor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["begin"]

T = TypeVar("T")


def begin(work: Callable[[], T], name: str) -> Future[T]:
    """Begin it in a thread of this name. The future gets its result, or whatever it raises.

    A daemon: nobody is kept from leaving by an answer that he does not want any more. Whoever waits for the future and is cancelled
    does not cancel the work, for which others may wait. Raise `RuntimeError` if the system gives no thread.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised to whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
