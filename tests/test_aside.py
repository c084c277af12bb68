"""Work in a thread that nobody has to wait for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from mongo_envelope import aside


def test_what_it_gives_is_in_the_future() -> None:
    """And it was a daemon of that name that gave it."""
    given = aside.begin(threading.current_thread, "some name").result(5)
    assert (given.name, given.daemon) == ("some name", True)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_it_raises_is_raised_to_whoever_waits(kind: type[BaseException]) -> None:
    """Whatever it is: a future without an end would be waited for for ever."""

    def fail() -> None:
        raise kind("this")

    with pytest.raises(kind, match="this"):
        aside.begin(fail, "it").result(5)


def test_a_limit_is_a_timeout_error_and_what_runs_runs_on() -> None:
    """`TimeoutError` is Python's own, and `cancel` of one who waited stops nobody."""
    release = threading.Event()
    answer = aside.begin(lambda: release.wait(30), "it")
    with pytest.raises(TimeoutError):
        answer.result(0.05)
    assert not answer.cancel()
    release.set()
    assert answer.result(5)


def test_a_process_ends_while_it_waits() -> None:
    """Nobody is kept from leaving."""
    program = "import time; from mongo_envelope import aside; aside.begin(lambda: time.sleep(60), 'it')"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
