"""The command ``mongo-envelope``, for those who look after keys. It needs the extra ``cli``; docs/commands.md describes it.

keys       the commands; each asks a key store for one thing
command    what they have in common: options, exit codes, and what becomes of an error
place      which key store is meant, and which key-encryption key
saying     what people and programs are told: nothing secret, and a question before what cannot be undone
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper

from mongo_envelope.errors import ConfigurationError
from mongo_envelope.kms.asking import extra

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of the process, and end with its exit code."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # what the store logs as a warning the command says itself
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # in a terminal that is no UTF-8
    try:
        extra("typer", "cli")
        extra("rich", "cli")
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    from .keys import app  # noqa: PLC0415 - it needs what may not be installed

    app(prog_name="mongo-envelope")
