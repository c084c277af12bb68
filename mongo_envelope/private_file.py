"""Small files that hold keys: of mode 0600, there whole or not at all, never overwritten, and refused if others can read them.

Used by `keys` for key files and by `kms.local` for the file of a key-encryption key. What stands in them is their business.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigurationError

__all__ = ["create_private", "read_private", "sync_folder", "unique_names"]


def read_private(
    path: str | os.PathLike[str],
    noun: str,
    *,
    make: Callable[[], bytes] | None = None,
    missing: str = "bring it back from its backup",
) -> bytes:
    """The content of a file; with ``make``, which gives the content, make the file first if it is not there.

    ``noun``: what such a file is called; ``missing``: what to do if it cannot be read. Raise `ConfigurationError` if it is
    missing, unreadable or (POSIX) open to other users.
    """
    if isinstance(path, str) and path.lstrip().startswith("{"):
        raise ConfigurationError(f"from_file takes the name of a {noun}, and was given its content, it seems")
    file, what = Path(path), f"the {noun} {str(path)!r}"
    try:
        if make is not None and not file.exists():
            create_private(file, make(), noun)
        with file.open("rb") as opened:
            # Before it is read: the error's frames hold no content.
            private = sys.platform == "win32" or not os.fstat(opened.fileno()).st_mode & 0o077
            if private:
                return opened.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = getattr(error, "strerror", None) or "not a path"
        raise ConfigurationError(f"cannot read {what}: {problem}. {missing}") from error
    raise ConfigurationError(f"{what} can be read by other users: chmod 600 it")


def create_private(path: Path, content: bytes, noun: str) -> bool:
    """Write a new file of mode 0600 that is there whole or not at all; False, and untouched, if it exists.

    A temporary file in the same folder, then a hard link: `link` fails if the name is taken, so of two processes that
    start at once one wins and the other reads what the winner wrote.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot make the {noun} {str(path)!r}: {error.strerror}") from error
    sync_folder(path.parent)
    return True


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of these files: `ValueError` for a name twice, of which another reader could take the other one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def sync_folder(folder: Path) -> None:
    """Make a new name itself survive a power cut. Not every platform can open a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
