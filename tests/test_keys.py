"""keys: rings by id, key files that are whole or absent, and no way for material to wander out."""

from __future__ import annotations

import base64
import copy
import hmac
import json
import os
import pickle
import secrets
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mongo_envelope import DataKey, IndexKey, KeyRing, keyfile
from mongo_envelope import keys as keys_module
from mongo_envelope.datakey import WorkingKeys, check_context, is_kid
from mongo_envelope.errors import ConfigurationError, KeyUnavailableError, UnknownKeyError
from mongo_envelope.primitives import derive

MATERIAL = bytes(range(100, 132))
OTHER = bytes(range(32))
FILE = {
    "version": 1,
    "primary": "k1",
    "keys": [
        {"kid": "k0", "material": base64.b64encode(OTHER).decode(), "check": "", "created": None},
        {"kid": "k1", "material": base64.b64encode(MATERIAL).decode(), "check": "", "created": "2024-02-29T12:00:00+00:00"},
    ],
}
for _entry, _key in zip(FILE["keys"], (DataKey("k0", OTHER), DataKey("k1", MATERIAL)), strict=True):  # type: ignore[call-overload]
    _entry["check"] = _key.check.hex()
TEXT = json.dumps(FILE)

THIRD = bytes(range(200, 232))
FILE_2 = FILE | {
    "version": 2,
    "index_keys": [
        {"kid": "x1", "material": base64.b64encode(THIRD).decode(), "check": IndexKey("x1", THIRD).check.hex(), "created": None},
        {"kid": "x2", "material": base64.b64encode(OTHER).decode(), "check": DataKey("k0", OTHER).check.hex(), "created": None},
    ],
    "search_by": "x2",
    "written": ["x2", "x1"],
}
TEXT_2 = json.dumps(FILE_2)

posix_only = pytest.mark.skipif(os.name != "posix", reason="modes, signals and limits of POSIX")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with everything that a traceback would print after it."""
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


def assert_silent(error: BaseException, *materials: bytes) -> None:
    """No error of the chain has key material in it, in any form that a file or a program gives it."""
    said = " ".join(f"{each} {each!r} {each.args!r} {vars(each)!r}" for each in chain(error))
    for material in materials or (MATERIAL, OTHER, THIRD):
        for form in (base64.b64encode(material).decode(), material.hex(), repr(material)[2:-1]):
            assert form[:12] not in said
            assert form[-12:-1] not in said


def write(path: Path, text: str | bytes) -> Path:
    """A private file, as a key file has to be."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def ring_in(content: bytes) -> KeyRing:
    """The ring in the content of a key file, as `KeyRing.from_file` reads it."""
    return keys_module._ring_or_error(keyfile.parsed(content, KeyRing), "the file")


def parts(working: WorkingKeys) -> tuple[bytes, bytes]:
    """What the two keys do, to compare."""
    return working.cipher.encrypt(bytes(16), bytes(32)), working.authenticator.tag(b"")


def same_keys(one: KeyRing, other: KeyRing) -> bool:
    """Whether two rings hold the same keys in the same order and seal with the same one."""
    return (list(one), one.primary) == (list(other), other.primary) and all(
        parts(one.working_keys(kid, "c")) == parts(other.working_keys(kid, "c")) for kid in one
    )


# --- keys -----------------------------------------------------------------------------------------------------------


def test_generated_keys_are_new() -> None:
    """Two generated keys have other ids and other material, and the id is 16 hex digits."""
    one, other = DataKey.generate(), DataKey.generate()
    assert one.kid != other.kid
    assert one.check != other.check
    assert len(one.kid) == 16
    assert int(one.kid, 16) >= 0
    assert one.created is not None
    assert abs((datetime.now(UTC) - one.created).total_seconds()) < 60
    assert DataKey.generate("mine").kid == "mine"


@pytest.mark.parametrize("kid", ["", "k" * 65, "k 1", "k/1", "k1\n", "\nk1", "ké", "k\u0661", "k\0", None, 1, b"k1"])
def test_an_ill_formed_kid_is_refused(kid: Any) -> None:
    """A key id is 1 to 64 ASCII letters, digits, underscores, dots and hyphens."""
    assert not is_kid(kid)
    with pytest.raises(ConfigurationError, match="1 to 64"):
        DataKey(kid, MATERIAL)


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_.\-]{1,64}", fullmatch=True))
def test_every_other_kid_is_taken(kid: str) -> None:
    """Any text of the permitted characters and lengths is a key id."""
    assert DataKey(kid, MATERIAL).kid == kid


@pytest.mark.parametrize("material", [b"", bytes(16), bytes(31), bytes(33), "a" * 32, bytearray(32), None])
def test_a_key_has_32_bytes(material: Any) -> None:
    """Anything but 32 immutable bytes is no key."""
    with pytest.raises(ConfigurationError, match="32 bytes"):
        DataKey("k1", material)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8))
def test_a_check_value_tells_a_wrong_key_at_once(material: bytes, check: bytes) -> None:
    """Another key's check value, or none that fits, is a mistake of configuration and not a forged document later."""
    right = DataKey("k1", material).check
    assert DataKey("k1", material, check=right).check == right
    for wrong in ({check, DataKey("k1", OTHER).check, right[:7], b""}) - {right}:
        with pytest.raises(ConfigurationError, match="does not match its check value") as caught:
            DataKey("k1", material, check=wrong)
        assert "k1" in str(caught.value)


def test_working_keys_depend_on_key_context_and_use() -> None:
    """No two keys, contexts or uses share a working key."""
    ring = KeyRing([DataKey("k0", OTHER), DataKey("k1", MATERIAL)])
    found = [parts(ring.working_keys(kid, context)) for kid in ring for context in ("a", "b", "A", "é", "e\u0301")]
    assert len({each for pair in found for each in pair}) == 2 * len(found)
    assert ring.working_keys("k1", "a") is ring.working_keys("k1", "a")


# --- contexts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["c", "c" * 255, "é" * 127 + "x", "\U0001f600" * 63, "\0", "mongo_envelope/keys/main"])
def test_contexts_of_1_to_255_bytes(context: str) -> None:
    """A context is counted in bytes of UTF-8."""
    ring = KeyRing.generate()
    assert check_context(context) == context
    assert len(ring.working_keys(ring.primary, context).authenticator.tag(b"")) == 32


@pytest.mark.parametrize("context", ["", "c" * 256, "é" * 128, "\U0001f600" * 64, "\ud800", None, b"c", 1])
def test_other_contexts_are_refused(context: Any) -> None:
    """Empty, longer than 255 bytes, not encodable, or not text: refused, wherever a context is given."""
    ring = KeyRing.generate()
    for refuses in (check_context, lambda given: ring.working_keys(ring.primary, given)):
        with pytest.raises(ConfigurationError, match="context="):
            refuses(context)


# --- rings ----------------------------------------------------------------------------------------------------------


def test_a_ring_seals_with_its_primary_and_knows_all() -> None:
    """The first key is the primary one unless another is named; all of them are found by their ids."""
    keys = [DataKey("k0", OTHER), DataKey("k1", MATERIAL)]
    ring = KeyRing(keys)
    assert (ring.primary, list(ring), len(ring)) == ("k0", ["k0", "k1"], 2)
    assert "k1" in ring
    assert "k2" not in ring
    assert KeyRing(keys, primary="k1").primary == "k1"


def test_adding_a_key_makes_another_ring() -> None:
    """A ring does not change: `with_key` gives another one, which seals with the new key unless told otherwise."""
    ring = KeyRing([DataKey("k0", OTHER)])
    new = DataKey("k1", MATERIAL)
    assert ring.with_key(new).primary == "k1"
    assert ring.with_key(new, primary=False).primary == "k0"
    assert list(ring.with_key(new)) == ["k0", "k1"]
    assert list(ring) == ["k0"]


def test_an_unknown_key_is_not_a_wrong_document() -> None:
    """A kid that the ring does not hold is an `UnknownKeyError` that names what the ring holds; no other key is tried."""
    with pytest.raises(UnknownKeyError, match="a key that is not in this ring, which holds k0;") as caught:
        KeyRing([DataKey("k0", OTHER)]).working_keys("k9", "c")
    assert_silent(caught.value)


@pytest.mark.parametrize(
    ("keys", "primary", "says"),
    [
        ([], None, "at least one"),
        ([DataKey("k0", OTHER), DataKey("k0", MATERIAL)], None, "occurs twice"),
        ([DataKey("k0", OTHER)], "k1", "'k1' is not in the ring"),
        ([DataKey("k0", OTHER)], "", "not in the ring"),
        ([DataKey("k0", OTHER)], ["k0"], "not in the ring"),
        ([DataKey("k0", OTHER)], base64.b64encode(MATERIAL).decode(), "not in the ring"),
        ([OTHER], None, "holds DataKey objects"),
    ],
)
def test_a_ring_that_does_not_fit_is_refused(keys: list[Any], primary: Any, says: str) -> None:
    """No key, an id twice, an unknown primary, or something that is no key: refused when the ring is built."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        KeyRing(keys, primary=primary)
    assert_silent(caught.value)


# --- nothing wanders out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave", [copy.copy, copy.deepcopy, *(lambda o, p=p: pickle.dumps(o, p) for p in range(pickle.HIGHEST_PROTOCOL + 1))]
)
def test_keys_and_rings_refuse_copy_and_pickle(leave: Callable[[object], object]) -> None:
    """A key that is copied or pickled ends in a cache or a queue, so it cannot be."""
    key = DataKey("k1", MATERIAL)
    working = key.working_keys("c")
    for holder in (key, working, working.cipher, working.authenticator, KeyRing([key]), {"deep": [KeyRing([key])]}):
        if leave is copy.copy and isinstance(holder, dict):
            continue
        if not isinstance(holder, dict):
            with pytest.raises(TypeError, match="not pickled or copied"):
                holder.__getstate__()
        with pytest.raises(TypeError, match="not pickled or copied") as caught:
            leave(holder)
        assert_silent(caught.value)


def test_a_repr_shows_ids_and_no_material() -> None:
    """What a log, a debugger or a test report prints of keys is their ids."""
    key = DataKey("k1", MATERIAL)
    ring = KeyRing([DataKey("k0", OTHER), key], primary="k1")
    working = ring.working_keys("k1", "c")
    assert repr(key) == str(key) == "DataKey('k1')"
    assert repr(ring) == f"{ring}" == "KeyRing(k0, k1; primary k1)"
    assert repr(working) == str(working) == "WorkingKeys(…)"
    assert isinstance(working, WorkingKeys)
    assert not hasattr(key, "__dict__")
    assert not hasattr(ring, "__dict__")


# --- files ----------------------------------------------------------------------------------------------------------


def test_create_makes_the_file_once_and_then_reads_it(tmp_path: Path) -> None:
    """The first run makes a private file with one key; the second run finds the same key and changes nothing."""
    path = tmp_path / "keys.json"
    first = KeyRing.from_file(path, create=True)
    written = path.read_bytes()
    assert same_keys(KeyRing.from_file(str(path), create=True), first)
    assert same_keys(KeyRing.from_file(path), first)
    assert path.read_bytes() == written
    assert len(first) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


@posix_only
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_key_file_has_mode_0600(tmp_path: Path, umask: int) -> None:
    """Whatever the umask, only the owner can read or write what `create` or `to_file` makes."""
    before = os.umask(umask)
    try:
        KeyRing.from_file(tmp_path / "a.json", create=True).to_file(tmp_path / "b.json")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) & ~0o600 for path in tmp_path.iterdir()} == {0}


def test_a_ring_of_several_keys_comes_back_from_its_file(tmp_path: Path) -> None:
    """`to_file` writes every key with its id, its check value, its date and which one is primary."""
    key = DataKey.generate("k1")
    ring = KeyRing([DataKey("k0", OTHER), key], primary="k1")
    ring.to_file(tmp_path / "keys.json")
    content = json.loads((tmp_path / "keys.json").read_text())
    assert same_keys(KeyRing.from_file(tmp_path / "keys.json"), ring)
    assert [entry["check"] for entry in content["keys"]] == [DataKey("k0", OTHER).check.hex(), key.check.hex()]
    assert content["keys"][1]["created"] == (key.created and key.created.isoformat())


@pytest.mark.parametrize("content", ["", "something else", TEXT])
def test_to_file_never_overwrites(tmp_path: Path, content: str) -> None:
    """A file that is there stays as it is, whatever it holds."""
    path = write(tmp_path / "keys.json", content)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        KeyRing.generate().to_file(path)
    assert path.read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


@posix_only
def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    """A link in the place of the key file does not make `create` write a key somewhere else."""
    (tmp_path / "keys.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ConfigurationError):
        KeyRing.from_file(tmp_path / "keys.json", create=True)
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    """Without ``create`` a missing file is an error that names the way out, and so is a folder in its place."""
    for path in (tmp_path / "keys.json", tmp_path):
        with pytest.raises(ConfigurationError, match="create=True"):
            KeyRing.from_file(path)
    with pytest.raises(ConfigurationError, match="cannot make"):
        KeyRing.from_file(tmp_path / "no" / "keys.json", create=True)


@posix_only
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644, 0o601, 0o620, 0o777])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """A key file with any right for group or others is refused, with the command that mends it."""
    path = write(tmp_path / "keys.json", TEXT)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        KeyRing.from_file(path, create=True)
    assert_silent(caught.value)
    path.chmod(0o400)
    assert KeyRing.from_file(path).primary == "k1"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b"\x80\x81" + TEXT.encode(), "damaged"),
        (TEXT.encode("utf-16-le") + b"\xd8", "damaged"),
        (TEXT.replace('"', "'"), "damaged"),
        (f"[{TEXT}]", "damaged"),
        (TEXT + TEXT, "damaged"),
        (base64.b64encode(MATERIAL), "damaged"),
        (json.dumps(base64.b64encode(MATERIAL).decode()), "damaged"),
        ("[" * 100_000, "damaged"),
        (json.dumps(FILE | {"version": 4}), "has version 4, and this package reads versions 1, 2 and 3"),
        (json.dumps(FILE | {"version": 2}), "damaged"),
        (json.dumps(FILE | {"version": base64.b64encode(MATERIAL).decode()}), "damaged"),
        (json.dumps(FILE | {"version": None}), "damaged"),
        (json.dumps(FILE | {"version": True}), "damaged"),
        (json.dumps(FILE | {"version": 1.0}), "damaged"),
        (json.dumps(FILE | {"more": 1}), "damaged"),
        (json.dumps(FILE | {"keys": [FILE["keys"][0] | {"state": "compromised"}]}), "damaged"),  # type: ignore[index]
        (json.dumps(FILE | {"keys": []}), "at least one"),
        (json.dumps(FILE | {"keys": [base64.b64encode(MATERIAL).decode()]}), "damaged"),
        (json.dumps(FILE | {"keys": {"k1": base64.b64encode(MATERIAL).decode()}}), "damaged"),
        (json.dumps(FILE | {"keys": FILE["keys"] * 2}), "occurs twice"),  # type: ignore[operator]
        (json.dumps(FILE | {"primary": "k9"}), "'k9' is not in the ring"),
        (json.dumps(FILE | {"primary": base64.b64encode(MATERIAL).decode()}), "not in the ring"),
        (json.dumps(FILE | {"primary": [base64.b64encode(MATERIAL).decode()]}), "damaged"),
        (json.dumps(FILE | {"primary": None}), "damaged"),
        (TEXT.replace(base64.b64encode(MATERIAL).decode(), base64.b64encode(MATERIAL).decode()[:-4]), "32 bytes|damaged"),
        (TEXT.replace(base64.b64encode(MATERIAL).decode(), "*" + base64.b64encode(MATERIAL).decode()), "damaged"),
        (TEXT.replace(base64.b64encode(MATERIAL).decode(), "é" + base64.b64encode(MATERIAL).decode()), "damaged"),
        (TEXT.replace(base64.b64encode(MATERIAL).decode(), MATERIAL.hex()), "32 bytes|damaged"),
        (TEXT.replace(base64.b64encode(OTHER).decode(), base64.b64encode(MATERIAL).decode()), "check value"),
        (TEXT.replace('"k1", "material"', f'"{MATERIAL.hex()}/", "material"'), "key id"),
        (TEXT.replace('"check": "', f'"check": "{MATERIAL.hex()}'), "damaged"),
        (TEXT.replace('"check": "', '"check": " '), "damaged"),
        (TEXT.replace('"check":', f'"check": "{MATERIAL.hex()}", "check":'), "damaged"),
        (json.dumps(FILE | {"keys": [FILE["keys"][0] | {"created": 0}]}), "damaged"),  # type: ignore[index]
        (TEXT.replace('"check": "', '"check": "xx'), "damaged"),
        (TEXT.replace("2024-02-29", base64.b64encode(MATERIAL).decode()), "damaged"),
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path: Path, content: str | bytes, says: str) -> None:
    """Whatever is wrong with a key file, the error says so and shows nothing of what stands in it."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        KeyRing.from_file(write(tmp_path / "keys.json", content), create=True)
    assert_silent(caught.value)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_was_cut_short_is_refused() -> None:
    """At whatever byte a key file was cut, it is damaged and not a ring of fewer keys."""
    for end in range(len(TEXT)):
        with pytest.raises(ConfigurationError, match="damaged") as caught:
            ring_in(TEXT[:end].encode())
        assert_silent(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 255))
def test_a_byte_that_changed_gives_no_other_key(at: int, byte: int) -> None:
    """A file with one other byte is refused, or its keys are the ones that were written."""
    content = TEXT.encode()
    try:
        ring = ring_in(content[:at] + bytes([byte]) + content[at + 1 :])
    except ConfigurationError as error:
        assert_silent(error)
    else:
        assert [parts(ring.working_keys(kid, "c")) for kid in ring] == [
            parts(DataKey("k0", OTHER).working_keys("c")),
            parts(DataKey("k1", MATERIAL).working_keys("c")),
        ]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["k1", 1, "00"])
names = st.sampled_from(["version", "primary", "keys", "kid", "material", "check", "created"])
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=7), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({"version": st.just(1), "primary": json_values, "keys": json_values | st.lists(json_values, max_size=2)})
    | json_values
)
def test_any_json_that_is_no_key_file_is_refused(content: object) -> None:
    """JSON of any shape gives a `ConfigurationError` and never another error."""
    with pytest.raises(ConfigurationError):
        ring_in(json.dumps(content).encode())


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_that_are_no_key_file_are_refused(content: bytes) -> None:
    """Bytes of any kind give a `ConfigurationError` and never another error."""
    with pytest.raises(ConfigurationError):
        ring_in(content)


# --- the environment ------------------------------------------------------------------------------------------------


def test_the_environment_holds_what_a_file_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The content of a key file, in one line or in several, is read from the variable that is named."""
    ring = KeyRing([DataKey("k0", OTHER), DataKey("k1", MATERIAL)], primary="k1")
    ring.to_file(tmp_path / "keys.json")
    monkeypatch.setenv("MONGO_ENVELOPE_KEYS", (tmp_path / "keys.json").read_text())
    monkeypatch.setenv("ONE_LINE", TEXT)
    assert same_keys(KeyRing.from_env(), ring)
    assert same_keys(KeyRing.from_env("ONE_LINE"), ring)


@pytest.mark.parametrize("content", ["", "{", TEXT[:-1], base64.b64encode(MATERIAL).decode(), TEXT + "\udcff"])
def test_a_damaged_variable_is_refused_without_quoting_it(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """An error names the variable and shows nothing of what stands in it."""
    monkeypatch.setenv("MONGO_ENVELOPE_KEYS", content)
    with pytest.raises(ConfigurationError, match="MONGO_ENVELOPE_KEYS is not a key file") as caught:
        KeyRing.from_env()
    assert_silent(caught.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is missing is an error that says what it should hold."""
    monkeypatch.delenv("MONGO_ENVELOPE_KEYS", raising=False)
    with pytest.raises(ConfigurationError, match="MONGO_ENVELOPE_KEYS is not set"):
        KeyRing.from_env()


# --- several processes, and interruptions ---------------------------------------------------------------------------

WORKER = """
import sys
from mongo_envelope import KeyRing
print("ready", flush=True)
for line in sys.stdin:
    ring = KeyRing.from_file(line.strip(), create=True)
    print(ring.primary, ring.working_keys(ring.primary, "c").authenticator.tag(b"").hex(), flush=True)
"""


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another Python, that has said that it is ready."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_start_at_once_end_with_one_key(tmp_path: Path) -> None:
    """Of four processes that create one file in the same moment one wins, and all four hold the winner's key."""
    workers = [started(WORKER) for _ in range(4)]
    paths = [tmp_path / f"keys-{i}.json" for i in range(25)]
    try:
        for path in paths:
            for worker in workers:
                worker.stdin.write(f"{path}\n")  # type: ignore[union-attr]
                worker.stdin.flush()  # type: ignore[union-attr]
            answers = {worker.stdout.readline() for worker in workers}  # type: ignore[union-attr]
            ring = KeyRing.from_file(path)
            assert answers == {f"{ring.primary} {ring.working_keys(ring.primary, 'c').authenticator.tag(b'').hex()}\n"}
    finally:
        for worker in workers:
            worker.communicate()
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@posix_only
def test_a_process_that_is_killed_leaves_no_half_file(tmp_path: Path) -> None:
    """Whenever a process dies that is making key files, each file is there whole or not at all."""
    endless = (
        'import itertools, sys; from mongo_envelope import KeyRing; print("ready", flush=True)\n'
        'for i in itertools.count(): KeyRing.from_file(f"{sys.argv[1]}/keys-{i}.json", create=True)'
    )
    for _ in range(3):
        folder = tmp_path / secrets.token_hex(4)
        folder.mkdir()
        process = started(endless, str(folder))
        with process:
            while not (folder / f"keys-{secrets.randbelow(8) + 1}.json").exists():
                pass
            process.send_signal(signal.SIGKILL)
        for path in folder.glob("keys-*.json"):
            assert len(KeyRing.from_file(path)) == 1


@posix_only
def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Where the disk ends in the middle of a key file, the error is ours and no file, half or whole, is left."""
    code = (
        "import resource, sys; from mongo_envelope import KeyRing, ConfigurationError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        'try: KeyRing.from_file(sys.argv[1] + "/keys.json", create=True)\n'
        "except ConfigurationError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot make the key file" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_the_wrong_material_leaves_none_in_the_traceback(tmp_path: Path) -> None:
    """Whoever collects the local variables of an error's frames (a crash reporter) finds no key there."""
    secret = base64.b64encode(MATERIAL).decode()
    path = write(tmp_path / "keys.json", TEXT.replace(base64.b64encode(OTHER).decode(), secret))
    with pytest.raises(ConfigurationError, match="check value") as caught:
        KeyRing.from_file(path)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    frames = shown[shown.index("mongo_envelope/keys.py") :]  # the test's own frame holds what it wrote
    assert secret not in frames
    assert repr(MATERIAL) not in frames


@pytest.mark.parametrize("path", ["a\0b", "x" * 300])
def test_a_path_that_is_none_is_a_configuration_error(path: str) -> None:
    """Too long, or with a NUL in it: the error says so, with create and without."""
    for create in (False, True):
        with pytest.raises(ConfigurationError, match="cannot read the key file"):
            KeyRing.from_file(path, create=create)


def test_a_ring_can_seal_with_another_of_its_keys() -> None:
    """The same keys, another primary; one that it does not hold is refused."""
    ring = KeyRing([DataKey("k0", OTHER), DataKey("k1", MATERIAL)])
    assert (ring.with_primary("k1").primary, list(ring.with_primary("k1")), ring.primary) == ("k1", ["k0", "k1"], "k0")
    with pytest.raises(ConfigurationError, match="not in the ring"):
        ring.with_primary("k9")


def test_the_content_in_place_of_the_name_is_not_quoted(tmp_path: Path) -> None:
    """Who passes what a key file holds, in place of where it is, is told so, and the material stays out of the error."""
    KeyRing.generate().to_file(tmp_path / "keys.json")
    content = (tmp_path / "keys.json").read_text()
    for read in (KeyRing.from_env, KeyRing.from_file, lambda text: KeyRing.from_file(text, create=True)):
        with pytest.raises(ConfigurationError, match="was given its content") as caught:
            read(content)
        assert caught.value.__context__ is None
        assert "{" not in str(caught.value)


# --- index keys -----------------------------------------------------------------------------------------------------


def index_ring(*kids: str, search_by: str | None = None, written: list[str] | None = None) -> KeyRing:
    """A ring of one data key and some index keys, each of its own material."""
    keys = [IndexKey(kid, bytes([number + 1] * 32)) for number, kid in enumerate(kids)]
    return KeyRing([DataKey("k1", MATERIAL)], index_keys=keys, search_by=search_by, written=written)


def roles(ring: KeyRing) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """The index keys, the one that is searched by, and those that are written."""
    return ring.index_keys, ring.search_key, ring.written_index_keys


def test_an_index_key_is_a_key() -> None:
    """New, with an id of its own or a given one, a date, and a check value by which a wrong one is told at once."""
    one, other = IndexKey.generate(), IndexKey.generate("mine")
    assert (len(one.kid), other.kid) == (16, "mine")
    assert one.check != other.check
    assert one.created is not None
    assert IndexKey("x1", THIRD, check=IndexKey("x2", THIRD).check).check == DataKey("k1", THIRD).check
    with pytest.raises(ConfigurationError, match="'x1': the material does not match its check value"):
        IndexKey("x1", THIRD, check=one.check)
    for kid, material, says in (("x 1", THIRD, "1 to 64"), ("x1", bytes(31), "32 bytes")):
        with pytest.raises(ConfigurationError, match=says):
            IndexKey(kid, material)


def test_the_key_of_an_index_is_derived_in_three_steps() -> None:
    """From the key, the purpose, the context, and then the index and its normaliser: each of them makes another key."""
    working = derive(derive(THIRD, "index"), "index", "c")
    by_hand = hmac.digest(derive(working, "index", "c", "email", "exact"), b"message", "sha256")
    assert IndexKey("any", THIRD).authenticator("c", "email", "exact").tag(b"message") == by_hand
    seen = {
        IndexKey("x", material).authenticator(*names).tag(b"")
        for material in (MATERIAL, THIRD)
        for names in (
            ("c", "a", "b"),
            ("d", "a", "b"),
            ("c", "b", "a"),
            ("c", "ab", ""),
            ("c", "", "ab"),
            ("ca", "", "b"),
            ("c", "a", "B"),
        )
    }
    assert len(seen) == 14


@pytest.mark.parametrize("context", ["", "c" * 256, "\ud800", None])
def test_an_index_key_refuses_what_is_no_context(context: Any) -> None:
    """As a data key does."""
    with pytest.raises(ConfigurationError, match="context="):
        IndexKey("x1", THIRD).authenticator(context, "a", "exact")


def test_an_index_key_is_no_data_key() -> None:
    """Neither can stand where the other belongs, and one material under both gives nothing in common."""
    with pytest.raises(ConfigurationError, match="holds DataKey objects here"):
        KeyRing([IndexKey("x1", THIRD)])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="holds IndexKey objects here"):
        KeyRing([DataKey("k1", MATERIAL)], index_keys=[DataKey("k2", THIRD)])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="with_index_key takes an IndexKey"):
        KeyRing([DataKey("k1", MATERIAL)]).with_index_key(DataKey("k2", THIRD))  # type: ignore[arg-type]
    tags = {
        DataKey("a", THIRD).authenticator("c").tag(b""),
        *(IndexKey("a", THIRD).authenticator("c", *each).tag(b"") for each in PAIRS),
    }
    assert len(tags) == 1 + len(PAIRS)


PAIRS = [("a", "exact"), ("authenticate", "c"), ("", "")]


def test_a_ring_has_one_index_key_to_search_by_and_some_to_write_under() -> None:
    """By default the first and all; the written ones in bytewise order, as they stand in a document."""
    assert roles(index_ring()) == ((), None, ())
    assert roles(index_ring("x1")) == (("x1",), "x1", ("x1",))
    assert roles(index_ring("x2", "x1")) == (("x2", "x1"), "x2", ("x1", "x2"))
    assert roles(index_ring("x2", "x1", search_by="x1", written=["x1"])) == (("x2", "x1"), "x1", ("x1",))
    ring = index_ring("x1", "x2")
    assert ring.index_key("x2").kid == "x2"
    assert "x1" not in ring
    assert [*ring] == ["k1"]
    assert len(ring) == 1


@pytest.mark.parametrize(
    ("ring", "says"),
    [
        ({"index_keys": [IndexKey("x1", THIRD), IndexKey("x1", OTHER)]}, "'x1' occurs twice"),
        ({"index_keys": [IndexKey("k1", THIRD)]}, "'k1' occurs twice: an id names one key, for ever"),
        ({"index_keys": [IndexKey("x1", THIRD)], "search_by": "x2"}, "index key to search by 'x2' is not in the ring"),
        ({"index_keys": [IndexKey("x1", THIRD)], "search_by": "k1"}, "index key to search by 'k1' is not in the ring"),
        ({"index_keys": [IndexKey("x1", THIRD)], "search_by": base64.b64encode(THIRD).decode()}, r"\(not even a key id\)"),
        ({"index_keys": [IndexKey("x1", THIRD)], "search_by": 5}, r"\(not even a key id\)"),
        ({"index_keys": [IndexKey("x1", THIRD)], "written": ["x2"]}, "index key to write values under 'x2' is not in the ring"),
        ({"index_keys": [IndexKey("x1", THIRD)], "written": ["x1", "x1"]}, "named twice"),
        ({"index_keys": [IndexKey("x1", THIRD)], "written": [["x1"]]}, r"\(not even a key id\)"),
        ({"index_keys": [IndexKey("x1", THIRD)], "written": []}, "must be written under the index key that searches go by"),
        ({"index_keys": [IndexKey("x1", THIRD)], "written": [None]}, "must be written|not in the ring|not even a key id"),
        (
            {"index_keys": [IndexKey("x1", THIRD), IndexKey("x2", OTHER)], "written": ["x2"]},
            "must be written under the index key that searches go by: otherwise nothing is found",
        ),
        ({"search_by": "x1"}, "not in the ring"),
        ({"written": ["x1"]}, "index key to write values under 'x1' is not in the ring"),
        ({"index_keys": [THIRD]}, "holds IndexKey objects"),
    ],
)
def test_index_keys_that_do_not_fit_are_refused(ring: dict[str, Any], says: str) -> None:
    """An id twice, over both kinds, and a role of a key that is not there, when the ring is built."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        KeyRing([DataKey("k1", MATERIAL)], **ring)
    assert_silent(caught.value)


def test_one_index_key_takes_the_place_of_another_in_four_steps() -> None:
    """Written too, searched by, the only one written, the only one: each step is another ring, and the old one stays as it was."""
    one, new = index_ring("x1"), IndexKey("x2", OTHER)
    both = one.with_index_key(new)
    switched = both.searching_by("x2")
    alone = switched.writing_only("x2")
    last = alone.without_index_key("x1")
    assert roles(one) == (("x1",), "x1", ("x1",))
    assert roles(both) == (("x1", "x2"), "x1", ("x1", "x2"))
    assert roles(switched) == (("x1", "x2"), "x2", ("x1", "x2"))
    assert roles(alone) == (("x1", "x2"), "x2", ("x2",))
    assert roles(last) == (("x2",), "x2", ("x2",))
    assert all((list(ring), ring.primary) == (["k1"], "k1") for ring in (both, switched, alone, last))
    assert last.index_key("x2") is new


def test_the_steps_take_the_key_itself_as_well() -> None:
    """In place of its id, which is all that is looked at."""
    new = IndexKey("x2", OTHER)
    both = index_ring("x1").with_index_key(new)
    assert roles(both.searching_by(new)) == roles(both.searching_by("x2"))
    assert roles(both.searching_by(new).writing_only(new)) == roles(both.searching_by("x2").writing_only("x2"))
    alone = both.searching_by(new).writing_only(new)
    assert roles(alone.without_index_key(alone.index_key("x1"))) == roles(alone.without_index_key("x1"))


def test_the_first_index_key_is_searched_by_at_once() -> None:
    """A ring without one, read from a file of an earlier release, gets one; the data keys stay."""
    ring = KeyRing([DataKey("k0", OTHER), DataKey("k1", MATERIAL)], primary="k1").with_index_key(IndexKey("x1", THIRD))
    assert roles(ring) == (("x1",), "x1", ("x1",))
    assert (list(ring), ring.primary) == (["k0", "k1"], "k1")


def test_steps_in_the_wrong_order_are_refused() -> None:
    """Each would lose documents to searches, or values to their key."""
    one, both = index_ring("x1"), index_ring("x1", "x2")
    switched = both.searching_by("x2")
    alone = switched.writing_only("x2")
    wrong: list[tuple[Callable[[], KeyRing], str]] = [
        (lambda: one.searching_by("x2"), "index key to search by 'x2' is not in the ring"),
        (lambda: alone.searching_by("x1"), "must be written under the index key that searches go by"),
        (lambda: one.writing_only("x2"), "index key to write values under 'x2' is not in the ring"),
        (lambda: both.writing_only("x2"), "must be written under the index key that searches go by"),
        (lambda: switched.writing_only("x1"), "must be written under the index key that searches go by"),
        (lambda: one.without_index_key("x1"), "values are still written under the index key x1: writing_only"),
        (lambda: both.without_index_key("x2"), "values are still written under the index key x2"),
        (lambda: switched.without_index_key("x1"), "values are still written under the index key x1"),
        (lambda: alone.without_index_key("x2"), "values are still written under the index key x2"),
        (lambda: alone.without_index_key("x9"), "index key 'x9' is not in the ring"),
        (lambda: one.without_index_key("k1"), "index key 'k1' is not in the ring"),
        (lambda: one.with_index_key(IndexKey("x1", OTHER)), "'x1' occurs twice"),
        (lambda: one.with_index_key(IndexKey("k1", OTHER)), "'k1' occurs twice"),
        (lambda: one.with_key(DataKey("x1", OTHER)), "'x1' occurs twice"),
    ]
    for step, says in wrong:
        with pytest.raises(ConfigurationError, match=says):
            step()


def test_a_data_key_is_changed_without_the_index_keys() -> None:
    """Another primary, another data key: the roles of the index keys stay."""
    ring = index_ring("x1", "x2", search_by="x2", written=["x2"])
    for other in (ring.with_key(DataKey("k2", OTHER)), ring.with_key(DataKey("k2", OTHER)).with_primary("k1")):
        assert roles(other) == roles(ring)
        assert list(other) == ["k1", "k2"]


def test_an_unknown_index_key_is_not_a_wrong_document() -> None:
    """The error says where the id stands, and which file is wanted."""
    for kid in ("x9", "k1"):
        with pytest.raises(UnknownKeyError, match=r"idx\.kid says which. Load the key file") as caught:
            index_ring("x1").index_key(kid)
        assert_silent(caught.value)


def test_a_generated_ring_can_do_both() -> None:
    """One data key and one index key, with different ids and different material."""
    ring = KeyRing.generate()
    assert ring.search_key is not None
    assert ring.search_key != ring.primary
    assert roles(ring) == ((ring.search_key,), ring.search_key, (ring.search_key,))
    assert ring.index_key(ring.search_key).check != ring._keys[ring.primary].check


def test_index_keys_show_their_ids_and_stay() -> None:
    """No repr, copy or pickle gives any material away."""
    key = IndexKey("x1", THIRD)
    ring = KeyRing([DataKey("k1", MATERIAL)], index_keys=[key, IndexKey("x2", OTHER)], search_by="x2")
    assert repr(key) == str(key) == "IndexKey('x1')"
    assert repr(ring) == str(ring) == "KeyRing(k1; primary k1; index keys x1, x2; searching by x2)"
    assert not hasattr(key, "__dict__")
    for holder in (key, key.authenticator("c", "a", "exact"), ring):
        for leave in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="not pickled or copied") as caught:
                leave(holder)
            assert_silent(caught.value)


# --- key files of version 2 -----------------------------------------------------------------------------------------


def same_index_keys(one: KeyRing, other: KeyRing) -> bool:
    """Whether two rings hold the same index keys in the same roles, too."""
    return (
        same_keys(one, other)
        and roles(one) == roles(other)
        and all(
            one.index_key(kid).authenticator("c", "i", "n").tag(b"") == other.index_key(kid).authenticator("c", "i", "n").tag(b"")
            for kid in one.index_keys
        )
    )


@pytest.mark.parametrize(
    "ring",
    [
        index_ring("x1"),
        index_ring("x2", "x1"),
        index_ring("x1", "x2", search_by="x2"),
        index_ring("x1", "x2", search_by="x2", written=["x2"]),
        index_ring("x1", "x2", "x3", search_by="x2", written=["x3", "x2"]),
        pytest.param(KeyRing.generate(), id="generated"),
    ],
    ids=repr,
)
def test_index_keys_and_their_roles_come_back_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: KeyRing) -> None:
    """Version 2 of the file, and of what the environment holds."""
    ring.to_file(tmp_path / "keys.json")
    content = (tmp_path / "keys.json").read_text()
    assert json.loads(content)["version"] == 2
    assert same_index_keys(KeyRing.from_file(tmp_path / "keys.json"), ring)
    monkeypatch.setenv("MONGO_ENVELOPE_KEYS", content)
    assert same_index_keys(KeyRing.from_env(), ring)


def test_without_index_keys_the_file_is_what_earlier_releases_read(tmp_path: Path) -> None:
    """Version 1, of three names; and a version 1 is read for ever."""
    KeyRing([DataKey("k0", OTHER), DataKey("k1", MATERIAL)], primary="k1").to_file(tmp_path / "keys.json")
    content = json.loads((tmp_path / "keys.json").read_text())
    assert content.keys() == {"version", "primary", "keys"}
    assert content["version"] == 1
    ring = ring_in(TEXT.encode())
    assert (list(ring), ring.primary, roles(ring)) == (["k0", "k1"], "k1", ((), None, ()))
    with_index = ring.with_index_key(IndexKey("x1", THIRD))
    with_index.to_file(tmp_path / "new.json")
    assert same_index_keys(KeyRing.from_file(tmp_path / "new.json"), with_index)


def test_a_file_of_version_2_is_read() -> None:
    """As it is documented: ids, roles, and the material under its check value."""
    ring = ring_in(TEXT_2.encode())
    assert roles(ring) == (("x1", "x2"), "x2", ("x1", "x2"))
    assert ring.index_key("x1").check == IndexKey("x1", THIRD).check


_INDEX_KEYS: list[Any] = FILE_2["index_keys"]  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 1}, "damaged"),
        ({"version": 3}, "damaged"),
        ({"version": 4}, "has version 4, and this package reads versions 1, 2 and 3"),
        ({"more": 1}, "damaged"),
        ({"index_keys": []}, "damaged"),
        ({"index_keys": {}}, "damaged"),
        ({"index_keys": None}, "damaged"),
        ({"index_keys": "x1"}, "damaged"),
        ({"index_keys": [base64.b64encode(THIRD).decode()]}, "damaged"),
        ({"index_keys": _INDEX_KEYS * 2}, "'x1' occurs twice"),
        ({"index_keys": [_INDEX_KEYS[0] | {"kid": "k1"}, _INDEX_KEYS[1]]}, "'k1' occurs twice|not in the ring"),
        ({"index_keys": [_INDEX_KEYS[0] | {"state": "retired"}, _INDEX_KEYS[1]]}, "damaged"),
        ({"index_keys": [_INDEX_KEYS[0] | {"check": "00" * 8}, _INDEX_KEYS[1]]}, "check value"),
        ({"index_keys": [_INDEX_KEYS[0] | {"material": THIRD.hex()}, _INDEX_KEYS[1]]}, "32 bytes|damaged"),
        ({"index_keys": _INDEX_KEYS[:1]}, "not in the ring"),
        ({"search_by": "x9"}, "index key to search by 'x9' is not in the ring"),
        ({"search_by": "k1"}, "index key to search by 'k1' is not in the ring"),
        ({"search_by": None}, "damaged"),
        ({"search_by": base64.b64encode(THIRD).decode()}, "not in the ring"),
        ({"search_by": ["x2"]}, "damaged"),
        ({"written": []}, "must be written under the index key that searches go by"),
        ({"written": ["x1"]}, "must be written under the index key that searches go by"),
        ({"written": ["x2", "x2"]}, "named twice"),
        ({"written": ["x2", "x9"]}, "'x9' is not in the ring"),
        ({"written": ["x2", None]}, "damaged"),
        ({"written": [["x2"]]}, "damaged"),
        ({"written": None}, "damaged"),
        ({"written": 5}, "damaged"),
        ({"written": base64.b64encode(THIRD).decode()}, "not in the ring|not even a key id|damaged"),
    ],
)
def test_a_damaged_file_of_version_2_is_refused_without_quoting_it(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Whatever is wrong with its index keys or their roles."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        KeyRing.from_file(write(tmp_path / "keys.json", json.dumps(FILE_2 | change)), create=True)
    assert_silent(caught.value)


def test_a_file_of_version_2_lacks_nothing() -> None:
    """Without one of its six names it is damaged, and no ring of fewer keys."""
    for name in FILE_2:
        with pytest.raises(ConfigurationError, match="damaged"):
            ring_in(json.dumps({key: value for key, value in FILE_2.items() if key != name}).encode())
    for end in range(len(TEXT_2)):
        with pytest.raises(ConfigurationError, match="damaged"):
            ring_in(TEXT_2[:end].encode())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT_2) - 1), st.integers(0, 255))
def test_a_byte_that_changed_gives_no_other_index_key(at: int, byte: int) -> None:
    """A file with one other byte is refused, or its keys are the ones that were written, whatever their names and roles."""
    content = TEXT_2.encode()
    try:
        ring = ring_in(content[:at] + bytes([byte]) + content[at + 1 :])
    except ConfigurationError as error:
        assert_silent(error)
    else:
        assert [ring.index_key(kid).check for kid in ring.index_keys] == [IndexKey("x", each).check for each in (THIRD, OTHER)]
        assert [parts(ring.working_keys(kid, "c")) for kid in ring] == [
            parts(DataKey("k", each).working_keys("c")) for each in (OTHER, MATERIAL)
        ]
        assert ring.search_key in ring.written_index_keys


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {name: st.just(value) for name, value in FILE_2.items()}
        | {
            "index_keys": json_values | st.lists(json_values, max_size=2) | st.just(_INDEX_KEYS),
            "search_by": json_values | st.sampled_from(["x1", "x2", "k1"]),
            "written": json_values | st.lists(scalars | st.sampled_from(["x1", "x2", "k1"]), max_size=3),
        }
    )
)
def test_any_json_in_a_file_of_version_2_is_a_ring_or_refused(content: dict[str, Any]) -> None:
    """And the ring has the roles that the file says; there is never another error."""
    try:
        ring = ring_in(json.dumps(content).encode())
    except ConfigurationError as error:
        assert_silent(error)
    else:
        assert ring.search_key == content["search_by"]
        assert ring.written_index_keys == tuple(sorted(content["written"]))
        assert [*ring.index_keys] == [each["kid"] for each in content["index_keys"]]


# --- what a key store knows of its keys -------------------------------------------------------------------------------


def store_ring(**options: Any) -> KeyRing:
    """Three keys, of which one is marked as compromised; the id of one that is no more."""
    keys = [DataKey("k1", MATERIAL), DataKey("k0", OTHER), DataKey("bad", THIRD)]
    return KeyRing(keys, compromised=["bad"], destroyed=["gone"], **options)


@pytest.mark.parametrize(
    ("kid", "says"), [("bad", "is marked as compromised"), ("gone", "has been destroyed"), ("k9", "not in this")]
)
def test_keys_that_do_not_open(kid: str, says: str) -> None:
    """Compromised, destroyed and unknown ones differ in what the error says; neither opens nor verifies."""
    ring = store_ring()
    for use in (ring.working_keys, ring.authenticator):
        with pytest.raises(UnknownKeyError, match=says):
            use(kid, "c")
    assert ("bad" in ring, "gone" in ring) == (True, False)


def test_for_a_rotation_compromised_keys_open() -> None:
    """In another ring; the ring itself stays as it is, and what is destroyed is destroyed in both."""
    ring = store_ring()
    rotating = ring.for_rotation()
    assert rotating.working_keys("bad", "c").authenticator.tag(b"") == DataKey("bad", THIRD).authenticator("c").tag(b"")
    assert rotating.authenticator("bad", "c") is rotating.working_keys("bad", "c").authenticator
    assert ring.authenticator("k0", "c") is ring.authenticator("k0", "c")
    for each, kid in ((ring, "bad"), (rotating, "gone")):
        with pytest.raises(UnknownKeyError):
            each.authenticator(kid, "c")


def test_a_compromised_key_does_not_seal() -> None:
    """It cannot be the primary one, at once or later."""
    with pytest.raises(ConfigurationError, match="the primary key bad is compromised"):
        store_ring(primary="bad")
    with pytest.raises(ConfigurationError, match="the primary key bad is compromised"):
        store_ring().with_primary("bad")


def test_a_primary_key_that_is_too_old_opens_only() -> None:
    """Sealing is refused with the reason, opening goes on; without a reason it seals."""
    ring = store_ring(too_old="the key k1 is too old")
    with pytest.raises(KeyUnavailableError, match="the key k1 is too old"):
        ring.sealing_keys("c")
    assert ring.working_keys("k1", "c") is ring.working_keys("k1", "c")
    assert store_ring().sealing_keys("c").authenticator.tag(b"") == DataKey("k1", MATERIAL).authenticator("c").tag(b"")


def test_other_rings_know_it_too() -> None:
    """A ring that is made of another one keeps what that knows of its keys."""
    ring = store_ring(too_old="too old").with_key(DataKey.generate("new"), primary=False).with_index_key(IndexKey.generate())
    with pytest.raises(UnknownKeyError, match="compromised"):
        ring.authenticator("bad", "c")
    with pytest.raises(UnknownKeyError, match="destroyed"):
        ring.authenticator("gone", "c")
    with pytest.raises(KeyUnavailableError, match="too old"):
        ring.for_rotation().sealing_keys("c")
