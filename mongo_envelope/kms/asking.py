"""What the providers have in common: libraries that may not be installed, calls that end in time, PINs and tokens."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from concurrent.futures import wait
from types import ModuleType
from typing import Final

from mongo_envelope import aside, primitives
from mongo_envelope.errors import ConfigurationError, KMSError

__all__ = ["Credential", "bounded", "check_timeout", "extra"]


def extra(module: str, name: str) -> ModuleType:
    """A module of an optional dependency. Raise `ConfigurationError`, which names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pass
    raise ConfigurationError(f'{module.partition(".")[0]} is not installed: pip install "mongo-envelope[{name}]"')


def check_timeout(timeout: float) -> float:
    """The seconds as they are, or `ConfigurationError`."""
    if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise ConfigurationError("timeout= is a number of seconds, more than 0")
    return timeout


def bounded(call: Callable[[], bytes], timeout: float, who: str) -> bytes:
    """What ``call`` gives, in a thread that is left behind after ``timeout`` seconds: then a temporary `KMSError`.

    An error of the call is raised without its frames, which hold secrets.
    """
    answer = aside.begin(call, who)
    wait([answer], timeout)
    if not answer.done():
        raise KMSError(f"{who} did not answer within {timeout} s", temporary=True)
    error = answer.exception()
    if error is not None:
        raise error.with_traceback(None)
    return answer.result()


class Credential(primitives.NeverLeaves):
    """A PIN or a token: a text, a function that gives one, or the name of the environment variable that holds it."""

    __slots__ = ("_env", "_given", "_what")

    def __init__(self, what: str, given: str | Callable[[], str] | None, env: str | None) -> None:
        """``what`` it is called in errors; ``given`` comes before ``env``. Raise `ConfigurationError`, also if it is not set."""
        if not (given is None or isinstance(given, str) or callable(given)):
            raise ConfigurationError(f"{what}= is a text, or a function without parameters that gives one")
        if given is None and env is not None and env not in os.environ:
            raise ConfigurationError(f"no {what}=, and the environment variable that would hold it is not set")
        self._what: Final = what
        self._given: Final = given
        self._env: Final = env if given is None else None

    def get(self) -> str | None:
        """The text as it is now; None if there is none. Raise `KMSError` if the function fails, of whose words none are shown."""
        given: object = self._given
        if self._env is not None:
            given = os.environ.get(self._env)
            if given is None:
                raise ConfigurationError(f"no {self._what}=, and the environment variable that would hold it is not set")
        failed = ""
        if callable(given):
            try:
                given = given()
            except Exception as error:  # noqa: BLE001 - the application's; its words may have the secret in them
                failed = type(error).__name__
        if failed:
            raise KMSError(f"{self._what}() failed ({failed})")
        if given is not None and not isinstance(given, str):
            raise ConfigurationError(f"{self._what}= is a text, or a function without parameters that gives one")
        if given is None and self._given is not None:
            raise ConfigurationError(f"{self._what}() gave nothing")
        return given
