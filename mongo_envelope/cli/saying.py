"""What people and programs are told: results on stdout, everything else on stderr, and a question before what cannot be undone.

Rich does not get to interpret, to cut or to wrap what is said: ids and fingerprints are there to be copied.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console, RenderableType

__all__ = ["Answer", "NotConfirmedError", "can_ask", "confirm", "redacted", "say", "show"]

_PASSWORD = re.compile(r"(mongodb(?:\+srv)?://)\S*@", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has found or done."""

    facts: Mapping[str, Any]  #: for programs: what --json writes
    shown: Sequence[RenderableType]  #: for people, instead of that
    notes: Sequence[str] = field(default=())  #: for people, always: what is to be done next, and warnings


class NotConfirmedError(Exception):
    """Nobody has confirmed what cannot be undone: nothing was changed."""


def redacted(text: str) -> str:
    """Without the user and the password of a URI, and without what would steer a terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], _PASSWORD.sub(r"\1…@", text))


def show(answer: Answer, *, as_json: bool) -> None:
    """Say it, on stdout; notes on stderr."""
    if as_json:
        sys.stdout.write(json.dumps(answer.facts) + "\n")
    else:
        console = _console(sys.stdout)
        for each in answer.shown:
            if isinstance(each, str):
                console.print(redacted(each), soft_wrap=True)
            else:
                console.print(each)
    for note in answer.notes:
        say(note)


def say(text: str) -> None:
    """Tell people something, on stderr."""
    _console(sys.stderr).print(redacted(text), soft_wrap=True)


def _console(file: Any) -> Console:
    return Console(file=file, highlight=False, markup=False, emoji=False, width=_WIDTH)


#: Wider than any line. In a narrow terminal rich would leave out whole columns, a state or a role; the terminal itself wraps.
_WIDTH: Final = 10_000


def can_ask() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()  # None where the process was started without one


def confirm(kid: str, what: str, *, yes: bool) -> None:
    """Go on only if somebody types the kid. Raise `NotConfirmedError`."""
    if yes:
        return
    if not can_ask():
        raise NotConfirmedError(f"{what} There is no terminal to ask at: say --yes if that is meant. Nothing was changed")
    say(f"{what}\nType {kid} to go on:")
    typed = ""
    with contextlib.suppress(UnicodeDecodeError):  # certainly not the kid
        typed = sys.stdin.readline().strip()
    if typed != kid:
        raise NotConfirmedError("not confirmed: nothing was changed")
