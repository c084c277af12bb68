"""Files that hold keys: made whole or not at all, private, never overwritten. test_keys.py races and kills their makers."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from mongo_envelope import ConfigurationError
from mongo_envelope.private_file import create_private, read_private, sync_folder

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")


def test_a_file_is_made_once(tmp_path: Path) -> None:
    """What is there is never written over, by either door; the temporary file is gone."""
    path = tmp_path / "key.json"
    assert read_private(path, "thing", make=lambda: b"one") == b"one"
    assert read_private(path, "thing", make=lambda: b"two") == b"one"
    assert not create_private(path, b"three", "thing")
    assert read_private(str(path), "thing") == b"one"
    assert list(tmp_path.iterdir()) == [path]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    """Whatever the group or others may do with it; the error names the file and the remedy, and no frame has the content."""
    path = tmp_path / "key.json"
    create_private(path, b"not for others", "thing")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"the thing .*key.json' can be read by other users: chmod 600 it") as caught:
        read_private(path, "thing")
    assert caught.value.__context__ is None
    assert "not for others" not in str(caught.traceback[-1].locals)


def test_what_cannot_be_read_or_made_is_named(tmp_path: Path) -> None:
    """A missing file or folder, a folder in the file's place, a NUL, or the content where the name belongs."""
    with pytest.raises(ConfigurationError, match=r"cannot read the thing .*: No such file or directory. Look in the safe"):
        read_private(tmp_path / "none", "thing", missing="Look in the safe")
    with pytest.raises(ConfigurationError, match=r"cannot read the thing .*: not a path"):
        read_private("a\0b", "thing", make=lambda: b"")
    with pytest.raises(ConfigurationError, match="cannot make the thing"):
        read_private(tmp_path / "no" / "folder", "thing", make=lambda: b"")
    with pytest.raises(ConfigurationError, match="the name of a thing, and was given its content") as caught:
        read_private(' {"a": 1}', "thing")
    assert '"a"' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    if sys.platform != "win32":
        tmp_path.chmod(0o700)
        with pytest.raises(ConfigurationError, match="Is a directory"):
            read_private(tmp_path, "thing")


def test_a_folder_that_cannot_be_opened_is_no_matter(tmp_path: Path) -> None:
    """Not every platform can flush a folder."""
    sync_folder(tmp_path / "none")
