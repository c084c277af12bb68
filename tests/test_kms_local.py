"""A key-encryption key on this machine: what it wraps only it unwraps, and it stands nowhere but where it is kept."""

from __future__ import annotations

import base64
import copy
import hmac
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, NoKeyringError

from mongo_envelope import ConfigurationError, KeyRing, KMSError
from mongo_envelope.kms import KMS, LocalKMS

KEK = bytes(range(32))
SECRET = b"a root, and what binds it to its store"
ID = "00112233aabbccdd"


def hkdf(key: bytes, *names: bytes) -> bytes:
    """RFC 5869 with the packed names, written out: 32 bytes, empty salt."""
    info = b"".join(len(name).to_bytes(4, "big") + name for name in (b"mongo_envelope/v1", *names))
    return hmac.digest(hmac.digest(bytes(32), key, "sha256"), info + b"\x01", "sha256")


def content(**changes: Any) -> str:
    """What a file of KEK holds, but for the changes."""
    entry = {"version": 1, "kek": base64.b64encode(KEK).decode(), "check": hkdf(KEK, b"check")[:8].hex(), "id": ID}
    return json.dumps(entry | changes)


def kept(path: Path, text: str) -> Path:
    """A private file with this text."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def assert_silent(error: BaseException, *secrets: bytes) -> None:
    """Neither the error nor what it follows from has the key or a secret, in any frame of the package."""
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    shown = shown[shown.index("mongo_envelope/kms/local.py") :]
    for secret in (KEK, *secrets):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert form not in shown
    assert error.__context__ is None


# --- wrap and unwrap ------------------------------------------------------------------------------------------------


def test_it_is_a_kms() -> None:
    """It has the shape of the protocol; its identity is its provider and its id; not anybody can wrap."""
    kms = LocalKMS(ID, KEK)
    assert isinstance(kms, KMS)
    assert (kms.identity, kms.public) == ({"provider": "local", "key": ID}, False)


@settings(deadline=None)
@given(st.binary(max_size=256))
def test_what_is_wrapped_is_unwrapped(secret: bytes) -> None:
    """Any secret comes back, under another nonce each time."""
    kms = LocalKMS.generate()
    one, other = kms.wrap(secret), kms.wrap(secret)
    assert kms.unwrap(one) == kms.unwrap(other) == secret
    assert one[:12] != other[:12]
    assert len(one) == len(secret) + 28


def test_the_wrapped_form_is_the_documented_one() -> None:
    """AES-256-GCM under the key for the purpose wrap, with the associated data of version 1, behind a nonce of 12 bytes."""
    cipher, associated = AESGCM(hkdf(KEK, b"wrap")), b"mongo_envelope/kms/local/1"
    wrapped = LocalKMS(ID, KEK).wrap(SECRET)
    assert cipher.decrypt(wrapped[:12], wrapped[12:], associated) == SECRET
    assert LocalKMS(ID, KEK).unwrap(bytes(12) + cipher.encrypt(bytes(12), SECRET, associated)) == SECRET
    with pytest.raises(KMSError):
        LocalKMS(ID, KEK).unwrap(bytes(12) + AESGCM(KEK).encrypt(bytes(12), SECRET, associated))


@settings(deadline=None)
@given(st.data())
def test_what_was_changed_is_refused(data: st.DataObject) -> None:
    """A byte changed, cut off or added: never another secret, and never worth another try."""
    kms = LocalKMS(ID, KEK)
    wrapped = kms.wrap(SECRET)
    at = data.draw(st.integers(0, len(wrapped) - 1))
    flipped = wrapped[:at] + bytes([wrapped[at] ^ data.draw(st.integers(1, 255))]) + wrapped[at + 1 :]
    for changed in (flipped, wrapped[:at], wrapped[at + 1 :], wrapped + b"\0", data.draw(st.binary(max_size=80))):
        with pytest.raises(KMSError, match=f"not wrapped under the local key-encryption key {ID}, or was changed") as caught:
            kms.unwrap(changed)
        assert not caught.value.temporary


def test_another_key_unwraps_nothing() -> None:
    """Another key of the same id, as of another version of a file, gives an error that has nothing of either key."""
    wrapped = LocalKMS(ID, KEK).wrap(SECRET)
    with pytest.raises(KMSError) as caught:
        LocalKMS(ID, bytes(32)).unwrap(wrapped)
    assert_silent(caught.value, SECRET)


@pytest.mark.parametrize(
    ("key_id", "kek"),
    [("x", KEK), (ID.upper(), KEK), (ID + "\n", KEK), (7, KEK), (ID, KEK[:31]), (ID, KEK + b"\0"), (ID, "k" * 32)],
)
def test_a_key_of_another_form_is_refused(key_id: Any, kek: Any) -> None:
    """16 hex digits and 32 bytes, nothing else."""
    with pytest.raises(ConfigurationError, match="of a LocalKMS"):
        LocalKMS(key_id, kek)


def test_it_does_not_leave_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """No pickle, no copy; its repr is its id; it logs nothing."""
    caplog.set_level(logging.DEBUG)
    kms = LocalKMS(ID, KEK)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            leave(kms)
    kms.unwrap(kms.wrap(SECRET))
    assert repr(kms) == f"LocalKMS('{ID}')"
    assert caplog.records == []


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_made_and_read_again(tmp_path: Path) -> None:
    """One private line of JSON; the same key after a restart, in this process and in another one."""
    path = tmp_path / "kek.json"
    kms = LocalKMS.from_file(path, create=True)
    wrapped = kms.wrap(SECRET)
    text = path.read_text()
    entry = json.loads(text)
    assert text.count("\n") == 1
    assert list(entry) == ["version", "kek", "check", "id"]
    assert entry["check"] == hkdf(base64.b64decode(entry["kek"]), b"check")[:8].hex()
    assert kms.identity["key"] == entry["id"]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    assert LocalKMS.from_file(str(path)).unwrap(wrapped) == LocalKMS.from_file(path, create=True).unwrap(wrapped) == SECRET
    program = (
        "import sys; from mongo_envelope.kms import LocalKMS\n"
        "print(LocalKMS.from_file(sys.argv[1]).unwrap(bytes.fromhex(sys.argv[2])).hex())"
    )
    ran = subprocess.run([sys.executable, "-c", program, path, wrapped.hex()], capture_output=True, text=True, check=True)
    assert bytes.fromhex(ran.stdout) == SECRET
    assert list(tmp_path.iterdir()) == [path]


def test_the_documented_content_is_read(tmp_path: Path) -> None:
    """The key and the id are those that stand in the file."""
    kms = LocalKMS.from_file(kept(tmp_path / "kek.json", content()))
    assert kms.identity["key"] == ID
    assert kms.unwrap(LocalKMS(ID, KEK).wrap(SECRET)) == SECRET


WORKER = """
import sys
from mongo_envelope.kms import LocalKMS
print("ready", flush=True)
for line in sys.stdin:
    print(LocalKMS.from_file(line.strip(), create=True).identity["key"], flush=True)
"""


def test_processes_that_start_at_once_end_with_one_key(tmp_path: Path) -> None:
    """Of three processes that create one file in the same moment one wins, and all hold the winner's key."""
    command = [sys.executable, "-c", WORKER]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = [tmp_path / f"kek-{number}.json" for number in range(20)]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"  # type: ignore[union-attr]  # it is a pipe
        for path in paths:
            for worker in workers:
                worker.stdin.write(f"{path}\n")  # type: ignore[union-attr]  # it is a pipe
                worker.stdin.flush()  # type: ignore[union-attr]  # it is a pipe
            answers = {worker.stdout.readline() for worker in workers}  # type: ignore[union-attr]  # it is a pipe
            assert answers == {LocalKMS.from_file(path).identity["key"] + "\n"}
    finally:
        for worker in workers:
            worker.communicate()
    assert sorted(tmp_path.iterdir()) == sorted(paths)


DAMAGED = {
    "nothing": "",
    "no JSON": "{",
    "cut off": content()[:-1],
    "a list": "[]",
    "null": "null",
    "deep": "[" * 100_000,
    "no version": content().replace('"version": 1, ', ""),
    "version 1.0": content(version=1.0),
    "version true": content(version=True),
    "version text": content(version="1"),
    "a name more": content(use="never"),
    "no id": content().replace(f', "id": "{ID}"', ""),
    "id of another form": content(id="k1"),
    "id no text": content(id=7),
    "key too short": content(kek=base64.b64encode(KEK[:31]).decode()),
    "key not base64": content(kek="!" + base64.b64encode(KEK).decode()),
    "key no text": content(kek=None),
    "check no text": content(check=7),
    "check with a surrogate": content(check="\ud800"),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    """The error names the file, and nothing of what stands in it."""
    path = kept(tmp_path / "kek.json", text)
    with pytest.raises(ConfigurationError, match=r"kek.json' is not a key-encryption key, or is damaged") as caught:
        LocalKMS.from_file(path)
    assert_silent(caught.value)


def test_a_key_file_is_no_key_encryption_key(tmp_path: Path) -> None:
    """Both are called a file with a key: it says which of them this is, and not that a version is missing."""
    KeyRing.generate().to_file(tmp_path / "keys.json")
    with pytest.raises(ConfigurationError, match="is not a key-encryption key, but a key file") as caught:
        LocalKMS.from_file(tmp_path / "keys.json")
    assert_silent(caught.value)


def test_another_version_and_another_key_are_told_apart(tmp_path: Path) -> None:
    """A later version says so; a key that does not match its check value is not the one that was stored."""
    with pytest.raises(ConfigurationError, match="has version 2, and this package reads version 1"):
        LocalKMS.from_file(kept(tmp_path / "kek.json", content(version=2)))
    for changes in ({"check": "00" * 8}, {"check": ""}, {"kek": base64.b64encode(bytes(32)).decode()}):
        with pytest.raises(ConfigurationError, match="does not match its check value") as caught:
            LocalKMS.from_file(kept(tmp_path / "kek.json", content(**changes)))
        assert_silent(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(content()) - 1), st.integers(0, 255))
def test_a_byte_that_changed_gives_no_other_key(at: int, byte: int) -> None:
    """A variable with one other byte is refused, or holds the key that was stored."""
    changed = content().encode()[:at] + bytes([byte]) + content().encode()[at + 1 :]
    if byte == 0:
        return  # no environment variable has one
    os.environ["CHANGED_KEK"] = os.fsdecode(changed)
    try:
        kms = LocalKMS.from_env("CHANGED_KEK")
    except ConfigurationError:
        return
    finally:
        del os.environ["CHANGED_KEK"]
    assert kms.unwrap(LocalKMS(ID, KEK).wrap(SECRET)) == SECRET


def test_a_file_that_is_missing_or_open_to_others_is_refused(tmp_path: Path) -> None:
    """As a key file is: the error says what to do; a NUL in the path, or the content in place of the name, is named."""
    with pytest.raises(ConfigurationError, match=r"cannot read the file of a key-encryption key .*from_file\(…, create=True\)"):
        LocalKMS.from_file(tmp_path / "kek.json")
    with pytest.raises(ConfigurationError, match="not a path"):
        LocalKMS.from_file("kek\0.json", create=True)
    for read in (LocalKMS.from_file, LocalKMS.from_env):
        with pytest.raises(ConfigurationError, match="was given its content") as caught:
            read(content())
        assert ID not in str(caught.value)
    if sys.platform != "win32":
        kept(tmp_path / "kek.json", content()).chmod(0o640)
        with pytest.raises(ConfigurationError, match="chmod 600") as caught:
            LocalKMS.from_file(tmp_path / "kek.json")
        assert_silent(caught.value)


# --- the environment ------------------------------------------------------------------------------------------------


def test_the_environment_holds_what_a_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name of the package, or under another; one that is missing or damaged is named and not quoted."""
    monkeypatch.setenv("MONGO_ENVELOPE_KEK", content())
    monkeypatch.setenv("ANOTHER", content(id="0" * 16) + "\n")
    assert (LocalKMS.from_env().identity["key"], LocalKMS.from_env("ANOTHER").identity["key"]) == (ID, "0" * 16)
    monkeypatch.setenv("MONGO_ENVELOPE_KEK", content() + "\udcff")
    with pytest.raises(ConfigurationError, match="MONGO_ENVELOPE_KEK is not a key-encryption key") as caught:
        LocalKMS.from_env()
    assert_silent(caught.value)
    monkeypatch.delenv("MONGO_ENVELOPE_KEK")
    with pytest.raises(ConfigurationError, match="MONGO_ENVELOPE_KEK is not set: it holds what the file"):
        LocalKMS.from_env()


# --- the keyring ----------------------------------------------------------------------------------------------------


class Memory(KeyringBackend):
    """A backend, by the library's extension point. It keeps entries in memory, and can be locked, absent or forgetful."""

    priority = 0  # type: ignore[assignment]  # never chosen by itself

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.failing: Exception | None = None
        self.forgetful = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.failing is not None:
            raise self.failing
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if not self.forgetful:
            self.entries[service, username] = password


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A keyring in memory, in the place of the operating system's."""
    before = keyring.get_keyring()
    backend = Memory()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_a_keyring_keeps_what_a_file_holds(memory: Memory) -> None:
    """Made once, under the name of the package or another, and read again."""
    kms = LocalKMS.from_keyring(create=True)
    assert list(memory.entries) == [("mongo-envelope", "kek")]
    assert LocalKMS.from_keyring().unwrap(kms.wrap(SECRET)) == LocalKMS.from_keyring(create=True).unwrap(kms.wrap(SECRET)) == SECRET
    memory.entries["shop", "main"] = content()
    assert LocalKMS.from_keyring("shop", "main").identity["key"] == ID


def test_of_two_that_write_to_a_keyring_the_later_counts(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes an entry uses what stands there afterwards."""
    write = memory.set_password

    def overtaken(service: str, username: str, password: str) -> None:
        write(service, username, password)
        write(service, username, content())

    monkeypatch.setattr(memory, "set_password", overtaken)
    assert LocalKMS.from_keyring(create=True).identity["key"] == ID


def test_a_keyring_without_the_entry_is_told(memory: Memory) -> None:
    """Without create nothing is made, and the error says what to do; a damaged entry is not written over."""
    with pytest.raises(ConfigurationError, match=r"there is no entry 'mongo-envelope', 'kek' .*create=True"):
        LocalKMS.from_keyring()
    assert memory.entries == {}
    memory.entries["mongo-envelope", "kek"] = content(check="00" * 8)
    with pytest.raises(ConfigurationError, match="the entry 'mongo-envelope', 'kek' of the keyring does not match") as caught:
        LocalKMS.from_keyring(create=True)
    assert_silent(caught.value)


@pytest.mark.parametrize("error", [NoKeyringError, KeyringLocked, OSError])
def test_a_keyring_that_cannot_be_used_names_the_way_out(memory: Memory, error: type[Exception]) -> None:
    """None there, locked, or an error of the backend's own, whose words may have anything in them."""
    memory.failing = error("the words " + content())
    with pytest.raises(ConfigurationError, match=rf"\({error.__name__}\): unlock it .*LocalKMS.from_file") as caught:
        LocalKMS.from_keyring(create=True)
    assert_silent(caught.value)


def test_a_keyring_that_keeps_nothing_is_refused(memory: Memory) -> None:
    """As keyring's null backend: a key that is lost with the process is not used."""
    memory.forgetful = True
    with pytest.raises(ConfigurationError, match="nothing was kept"):
        LocalKMS.from_keyring(create=True)


def test_a_machine_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ConfigurationError, match=r'keyring is not installed: pip install "mongo-envelope\[keyring\]"'):
        LocalKMS.from_keyring()
