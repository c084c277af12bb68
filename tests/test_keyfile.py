"""keyfile: files of version 3, of restricted rings. Those of versions 1 and 2 are tested in tests/test_keys.py."""

from __future__ import annotations

import base64
import itertools
import json
import stat
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mongo_envelope import ConfigurationError, DataKey, IndexKey, KeyRing, keyfile
from mongo_envelope.primitives import derive

OLD, MATERIAL, INDEX, INDEX_2 = (bytes([number]) * 32 for number in (101, 102, 103, 104))
WHOLE = KeyRing(
    [DataKey("k0", OLD), DataKey("k1", MATERIAL)],
    primary="k1",
    index_keys=[IndexKey("x1", INDEX), IndexKey("x2", INDEX_2)],
    search_by="x2",
    written=["x2", "x1"],
)
CONTEXTS = ["customers", "orders"]
RING = WHOLE.restrict("metadata", "search", contexts=CONTEXTS)
SECRETS = {"material": [OLD, MATERIAL, INDEX, INDEX_2]} | {
    kind: [derive(derive(key, purpose), purpose, context) for key in keys for context in CONTEXTS]
    for kind, purpose, keys in (
        ("authenticate", "authenticate", (OLD, MATERIAL)),
        ("encrypt", "encrypt", (OLD, MATERIAL)),
        ("index", "index", (INDEX, INDEX_2)),
    )  # type: ignore[misc]  # each is a purpose
}
TEXT = RING._as_json().decode()
FILE: dict[str, Any] = json.loads(TEXT)


def working(ring: KeyRing) -> list[Any]:
    """Its working keys, in their order."""
    return [key._working for key in (*ring._keys.values(), *ring._index_keys.values())]


def ring_in(content: str | bytes) -> KeyRing:
    found = keyfile.parsed(content if isinstance(content, bytes) else content.encode(), KeyRing)
    if isinstance(found, str):
        raise ConfigurationError(found)
    return found


def assert_silent(error: BaseException) -> None:
    """Nothing secret, in whatever form, in what would be printed or kept."""
    seen = "".join(traceback.format_exception(error)) + repr(error.__context__) + repr(error.__cause__)
    for key in itertools.chain.from_iterable(SECRETS.values()):
        assert key.hex() not in seen
        assert base64.b64encode(key).decode()[:12] not in seen


COMBINATIONS: list[tuple[Any, ...]] = [
    ("verify",),
    ("metadata",),
    ("search",),
    ("verify", "search"),
    ("metadata", "search"),
]


@pytest.mark.parametrize("capabilities", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("contexts", [["customers"], ["b", "a", "ü"]], ids=["one", "several"])
def test_a_restricted_ring_comes_back_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: tuple[Any, ...], contexts: list[str]
) -> None:
    """From a file of mode 0600, and from the environment, with all that it had; and it goes into the same file again."""
    ring = WHOLE.restrict(*capabilities, contexts=contexts)
    path = tmp_path / "keys.json"
    ring.to_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv("MONGO_ENVELOPE_KEYS", path.read_text())
    for found in (KeyRing.from_file(path), KeyRing.from_file(path, create=True), KeyRing.from_env()):
        assert (found.capabilities, found.contexts) == (ring.capabilities, tuple(contexts))
        assert ([*found], found.index_keys, found.search_key) == ([*ring], ring.index_keys, ring.search_key)
        assert found.written_index_keys == ring.written_index_keys
        assert working(found) == working(ring)
        for kid in ring:
            assert found._keys[kid].check == WHOLE._keys[kid].check
            assert found._keys[kid].created == WHOLE._keys[kid].created
        assert found._as_json() == path.read_bytes()


def everything_in(content: Any) -> list[str]:
    """All texts of a file, also the names."""
    if isinstance(content, dict):
        return [text for name, value in content.items() for text in (name, *everything_in(value))]
    return [text for each in content for text in everything_in(each)] if isinstance(content, list) else [str(content)]


@pytest.mark.parametrize("capabilities", COMBINATIONS, ids="+".join)
def test_a_file_holds_the_keys_of_its_ring_and_no_others(tmp_path: Path, capabilities: tuple[Any, ...]) -> None:
    """Working keys of its capabilities and contexts, in base64: no other 32 bytes, and no material in any form."""
    WHOLE.restrict(*capabilities, contexts=CONTEXTS).to_file(tmp_path / "keys.json")
    text = (tmp_path / "keys.json").read_text()
    verifies, searches = "search" not in capabilities or len(capabilities) > 1, "search" in capabilities
    expected = {*(SECRETS["authenticate"] if verifies else []), *(SECRETS["index"] if searches else [])}
    found = {base64.b64decode(each) for each in everything_in(json.loads(text)) if len(each) == 44}
    assert found == expected
    for key in itertools.chain.from_iterable(SECRETS.values()):
        assert (base64.b64encode(key).decode() in text) == (key in expected)
        assert key.hex() not in text


def test_a_file_of_version_3_is_as_documented() -> None:
    """Seven names; of each key its id, its check value, its date, and by context the working key with a check value of its own."""
    assert FILE.keys() == {"version", "capabilities", "contexts", "keys", "index_keys", "search_by", "written"}
    assert FILE["version"] == 3
    assert FILE["capabilities"] == ["metadata", "search", "verify"]
    assert FILE["contexts"] == CONTEXTS
    assert (FILE["search_by"], FILE["written"]) == ("x2", ["x2", "x1"])
    authenticate = SECRETS["authenticate"][3]
    assert FILE["keys"][1] == {
        "kid": "k1",
        "check": derive(MATERIAL, "check")[:8].hex(),
        "created": None,
        "contexts": {
            "customers": FILE["keys"][1]["contexts"]["customers"],
            "orders": {"key": base64.b64encode(authenticate).decode(), "check": derive(authenticate, "check")[:8].hex()},
        },
    }


_KEY, _INDEX_KEY = FILE["keys"][0], FILE["index_keys"][0]
_ONE = _KEY["contexts"]["customers"]


def with_key(**change: Any) -> dict[str, Any]:
    return {"keys": [_KEY | change, FILE["keys"][1]]}


def with_working(change: Any) -> dict[str, Any]:
    return with_key(contexts=_KEY["contexts"] | {"customers": change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 1}, "damaged"),
        ({"version": 2}, "damaged"),
        ({"version": 4}, "has version 4"),
        ({"version": 3.0}, "damaged"),
        ({"primary": "k1"}, "damaged"),
        ({"more": 1}, "damaged"),
        ({"capabilities": []}, "one or more of"),
        ({"capabilities": None}, "damaged"),
        ({"capabilities": "verify"}, "damaged"),
        ({"capabilities": ["metadata", "search"]}, "damaged"),
        ({"capabilities": ["metadata", "search", "verify", "open"]}, "one or more of"),
        ({"capabilities": [["verify"]]}, "damaged"),
        ({"capabilities": [base64.b64encode(MATERIAL).decode()]}, "one or more of"),
        ({"capabilities": ["verify"]}, "the keys that its capabilities take"),
        ({"capabilities": ["search"]}, "the keys that its capabilities take"),
        ({"contexts": []}, "damaged"),
        ({"contexts": None}, "damaged"),
        ({"contexts": "customers"}, "damaged"),
        ({"contexts": ["customers"]}, "damaged"),
        ({"contexts": ["customers", "orders", "more"]}, "damaged"),
        ({"contexts": ["customers", "orders", "orders"]}, "damaged"),
        ({"contexts": ["customers", ["orders"]]}, "damaged"),
        ({"contexts": {"customers": 1, "orders": 1}}, "damaged"),
        ({"keys": []}, "at least one key"),
        ({"keys": None}, "damaged"),
        ({"keys": {}}, "damaged"),
        ({"keys": [5]}, "damaged"),
        ({"keys": [_KEY, _KEY]}, "'k0' occurs twice"),
        ({"keys": [_KEY | {"kid": "x1"}]}, "'x1' occurs twice"),
        (with_key(kid="no id"), "a key id is"),
        (with_key(kid=None), "a key id is"),
        (with_key(check="00"), "damaged"),
        (with_key(check="AB" * 8), "damaged"),
        (with_key(check=" " + "ab" * 8), "damaged"),
        (with_key(created=""), "damaged"),
        (with_key(created="2026-01-01T00:00:00"), "damaged"),
        (with_key(check=5), "damaged"),
        (with_key(check="zz"), "damaged"),
        (with_key(created="yesterday"), "damaged"),
        (with_key(created=5), "damaged"),
        (with_key(material=base64.b64encode(MATERIAL).decode()), "damaged"),
        (with_key(contexts={}), "damaged"),
        (with_key(contexts=None), "damaged"),
        (with_key(contexts={"customers": _ONE}), "damaged"),
        (with_key(contexts=_KEY["contexts"] | {"more": _ONE}), "damaged"),
        (with_working(None), "damaged"),
        (with_working(_ONE["key"]), "damaged"),
        (with_working(_ONE | {"more": 1}), "damaged"),
        (with_working({"key": _ONE["key"]}), "damaged"),
        (with_working(_ONE | {"check": "00" * 8}), "damaged"),
        (with_working(_ONE | {"key": base64.b64encode(MATERIAL).decode()}), "damaged"),
        (with_working(_ONE | {"key": base64.b64encode(b"short").decode()}), "damaged"),
        (with_working(_ONE | {"key": "?"}), "damaged"),
        ({"index_keys": []}, "damaged"),
        ({"index_keys": [], "search_by": None}, "the keys that its capabilities take|must be|not in the ring"),
        ({"index_keys": None}, "damaged"),
        ({"index_keys": [_INDEX_KEY]}, "'x2' is not in the ring"),
        ({"search_by": None}, "damaged"),
        ({"search_by": "x9"}, "'x9' is not in the ring"),
        ({"search_by": base64.b64encode(MATERIAL).decode()}, "not in the ring"),
        ({"search_by": ["x2"]}, "damaged"),
        ({"written": ["x1"]}, "must be written under the index key that searches go by"),
        ({"written": None}, "damaged"),
        ({"written": [5]}, "damaged"),
        ({"written": "x2"}, "damaged"),
        ({"written": ["x2", "x2"]}, "named twice"),
    ],
)
def test_a_damaged_file_of_version_3_is_refused_without_quoting_it(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Whatever is wrong with it, the error says so and shows nothing of what stands in it."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(FILE | change))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=says) as caught:
        KeyRing.from_file(path)
    assert_silent(caught.value)


def test_a_file_of_version_3_lacks_nothing() -> None:
    """Without one of its names, or cut short, it is damaged, and no ring of less."""
    for name in FILE:
        with pytest.raises(ConfigurationError, match="damaged"):
            ring_in(json.dumps({key: value for key, value in FILE.items() if key != name}))
    for end in range(len(TEXT) - 1):
        with pytest.raises(ConfigurationError, match="damaged"):
            ring_in(TEXT[:end].rstrip())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 255))
def test_a_byte_that_changed_gives_no_other_working_key(at: int, byte: int) -> None:
    """A file with one other byte is refused, or its keys are those that were written, for the same contexts."""
    content = TEXT.encode()
    try:
        ring = ring_in(content[:at] + bytes([byte]) + content[at + 1 :])
    except ConfigurationError as error:
        assert_silent(error)
    else:
        assert working(ring) == working(RING)
        assert (ring.capabilities, ring.contexts) == (RING.capabilities, RING.contexts)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
capability = st.sampled_from(["verify", "metadata", "search", "open"])


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {name: st.just(value) | json_values for name, value in FILE.items() if name != "version"}
        | {
            "version": st.just(3),
            "capabilities": st.just(FILE["capabilities"]) | st.lists(capability | scalars, max_size=4),
            "contexts": st.just(CONTEXTS) | st.permutations(CONTEXTS) | json_values,
            "keys": st.just(FILE["keys"]) | st.just([]) | st.lists(json_values, max_size=2),
            "search_by": st.sampled_from(["x1", "x2", "k1", None]) | json_values,
            "written": st.lists(scalars | st.sampled_from(["x1", "x2", "k1"]), max_size=3) | json_values,
        }
    )
)
def test_any_json_in_a_file_of_version_3_is_a_ring_or_refused(content: dict[str, Any]) -> None:
    """And the ring is what the file says; there is never another error."""
    try:
        ring = ring_in(json.dumps(content))
    except ConfigurationError as error:
        assert_silent(error)
    else:
        assert ring.contexts == tuple(content["contexts"])
        assert ring.capabilities == {*content["capabilities"]}
        assert ring.search_key == content["search_by"]
        assert ring.written_index_keys == tuple(sorted(content["written"]))


@settings(max_examples=200, deadline=None)
@given(json_values, json_values)
def test_any_json_in_a_restricted_key_is_refused(entry: Any, inner: Any) -> None:
    """Never another error, and never a key."""
    for change in ({"keys": [entry]}, with_key(contexts=inner), with_working(inner), with_key(check=inner)):
        with pytest.raises(ConfigurationError):
            ring_in(json.dumps(FILE | change))
