"""The specification of key stores and key files: the reference gives every vector, and the library reads the key files."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bson import json_util
from bson.binary import UuidRepresentation

from mongo_envelope import DataKey, IndexKey, KeyRing
from mongo_envelope.errors import ConfigurationError, KMSError
from mongo_envelope.errors import __all__ as error_names
from mongo_envelope.kms import local
from mongo_envelope.kms.local import LocalKMS

SPEC = Path(__file__).parents[1] / "spec"
JSON_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, uuid_representation=UuidRepresentation.STANDARD, tz_aware=True, tzinfo=UTC
)


def loaded(name: str) -> ModuleType:
    """A file beside the specification, which is in no package."""
    found = importlib.util.spec_from_file_location(name, SPEC / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def loaded_reference() -> ModuleType:
    """The reference of key stores, which imports the other one by its plain name; nothing of that name stays behind."""
    before = sys.modules.get("reference")
    sys.modules["reference"] = loaded("reference")
    try:
        return loaded("keystore_reference")
    finally:
        del sys.modules["reference"]
        if before is not None:
            sys.modules["reference"] = before


keystore = loaded_reference()
reference = keystore.reference


def content(file: str) -> dict[str, Any]:
    """One vector file."""
    found: dict[str, Any] = json.loads((SPEC / "vectors" / f"{file}.json").read_text())
    assert found.pop("format") == "mongo_envelope/v1"
    return found


STORES, FILES = content("keystore"), content("capabilities")


def named(cases: list[dict[str, Any]]) -> list[Any]:
    """Cases as parameters with their names."""
    return [pytest.param(case, id=case["name"]) for case in cases]


def in_values(told: dict[str, Any]) -> dict[str, Any]:
    """Moments that a vector gives in extended JSON."""
    found: dict[str, Any] = json_util.loads(json.dumps(told), json_options=JSON_OPTIONS)
    return found


def key_of(told: dict[str, Any]) -> Any:
    """A key of a vector, as the reference holds it."""
    fields = in_values(told)
    material = fields.pop("material")
    return keystore.Key(
        **fields | {"check": bytes.fromhex(fields["check"]), "material": None if material is None else bytes.fromhex(material)}
    )


def roles_of(told: dict[str, Any]) -> Any:
    """The roles of a vector, as the reference holds them."""
    return keystore.Roles(**in_values(told))


def record_of(case: dict[str, Any], store: str, root: bytes, iv: bytes) -> bytes:
    """What a writer makes of the key or the roles of a vector."""
    if "key" in case:
        raw: bytes = keystore.key_record(key_of(case["key"]), store=store, root=root, iv=iv)
    else:
        raw = keystore.roles_record(roles_of(case["roles"]), store=store, root=root, iv=iv)
    return raw


def read(case: dict[str, Any], records: list[bytes] | None = None) -> Any:
    """Read the store of a vector as its configuration says."""
    kek = keystore.Kek(
        case["kms"], lambda wrapped: keystore.local_unwrap(bytes.fromhex(case["kek"]), wrapped), public=case["public"]
    )
    documents = [bytes.fromhex(raw) for raw in case["records"]] if records is None else records
    fingerprint = None if case["fingerprint"] is None else bytes.fromhex(case["fingerprint"])
    return keystore.read(documents, kek, fingerprint=fingerprint)


def error_of(call: Callable[[], object]) -> str:
    """The name of the error of the text that a call raises; nothing if it raises none."""
    try:
        call()
    except (keystore.KeyStoreError, keystore.ConfigurationError) as error:
        return type(error).__name__
    return ""


def test_every_vector_is_counted() -> None:
    """A vector file that grows, shrinks or is no longer read fails here."""
    assert {name: len(part) for name, part in STORES.items()} == COUNTS["keystore"]
    assert {name: len(part) for name, part in FILES.items()} == COUNTS["capabilities"]
    assert Counter(case["error"] for case in STORES["reject"]) == COUNTS["errors"]
    for part in (STORES[name] for name in ("local", "local_refused", "local_files", "records", "stores", "reject")):
        names = [case["name"] for case in part]
        assert len(set(names)) == len(names)


COUNTS: dict[str, dict[str, int]] = {
    "keystore": {
        "errors": 12,
        "secrets": 4,
        "local": 7,
        "local_refused": 19,
        "local_files": 3,
        "local_files_refused": 29,
        "records": 26,
        "records_refused": 24,
        "stores": 23,
        "reject": 278,
        "files_refused": 18,
    },
    "capabilities": {"whole": 5, "restricted": 6, "refused": 172},
    "errors": {
        "Contradiction": 26,
        "ForeignKey": 24,
        "Incomplete": 3,
        "Integrity": 36,
        "InvalidRecord": 86,
        "MalformedRecord": 51,
        "NoFingerprint": 1,
        "UnsupportedVersion": 5,
        "Unwrap": 20,
        "WrongFingerprint": 9,
        "WrongRoot": 17,
    },
}


def test_each_error_of_the_text_is_one_of_the_library() -> None:
    """The table of section 4 names errors that there are, the vectors have the same table, and the text does."""
    assert STORES["errors"] == {error.__name__: name for error, name in keystore.IN_THE_LIBRARY.items()}
    assert {each.__name__ for each in keystore.KeyStoreError.__subclasses__()} == STORES["errors"].keys()
    assert set(STORES["errors"].values()) <= set(error_names)
    lines = (SPEC / "keystore-v1.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    table = {row[0].strip("`"): row[-1].partition(",")[0].strip("`") for row in rows if row[0].strip("`") in STORES["errors"]}
    assert table == STORES["errors"]


@pytest.mark.parametrize("case", STORES["secrets"], ids=lambda case: case["store"])
def test_secret_vectors(case: dict[str, Any]) -> None:
    """The secret of a root, 85 bytes; the root of that secret; and its fingerprint."""
    root, secret = bytes.fromhex(case["root"]), bytes.fromhex(case["secret"])
    assert keystore.secret_of(case["store"], root) == secret
    assert len(secret) == 85
    assert keystore.root_of(secret, case["store"]) == root
    assert reference.fingerprint(root).hex() == case["fingerprint"]


@pytest.mark.parametrize("case", named(STORES["local"]))
def test_local_vectors(case: dict[str, Any]) -> None:
    """The local key-encryption key wraps to the bytes of the specification, and unwraps them."""
    kek, nonce, secret, wrapped = (bytes.fromhex(case[name]) for name in ("kek", "nonce", "secret", "wrapped"))
    assert keystore.local_wrap_key(kek).hex() == case["wrap_key"]
    assert keystore.local_wrap(kek, secret, nonce=nonce) == wrapped
    assert keystore.local_unwrap(kek, wrapped) == secret
    assert len(wrapped) == len(secret) + 28


@pytest.mark.parametrize("case", named(STORES["local_refused"]))
def test_local_vectors_that_are_refused(case: dict[str, Any]) -> None:
    """What was not wrapped by this key, or was changed since, is refused."""
    kek, wrapped = bytes.fromhex(case["kek"]), bytes.fromhex(case["wrapped"])
    assert error_of(lambda: keystore.local_unwrap(kek, wrapped)) == case["error"] == "Unwrap"


@pytest.mark.parametrize("case", named(STORES["local_files"]))
def test_local_files(case: dict[str, Any]) -> None:
    """The file of a local key-encryption key gives the key, its id and its identity, and is what a writer writes."""
    kek = bytes.fromhex(case["kek"])
    assert keystore.read_local_file(case["file"]) == (kek, case["id"])
    assert keystore.local(kek, case["id"]).identity == case["identity"]
    assert keystore.local_file(kek, case["id"]) == json.loads(case["file"])


@pytest.mark.parametrize("case", named(STORES["local_files_refused"]))
def test_local_files_that_are_refused(case: dict[str, Any]) -> None:
    """Anything else is an error of configuration."""
    assert error_of(lambda: keystore.read_local_file(case["file"])) == case["error"] == "ConfigurationError"


@pytest.mark.parametrize("case", named(STORES["records"]))
def test_record_vectors(case: dict[str, Any]) -> None:
    """Keys of every purpose and state, and roles, are sealed to the bytes of the specification, and read again."""
    root, document = bytes.fromhex(case["root"]), bytes.fromhex(case["document"])
    assert record_of(case, case["store"], root, bytes.fromhex(case["iv"])) == document
    metadata, payload = keystore.opened(document, case["store"], root)
    if "key" in case:
        assert keystore.read_key(document, metadata, payload) == key_of(case["key"])
    else:
        assert keystore.read_roles(document, metadata, payload) == roles_of(case["roles"])


@pytest.mark.parametrize("case", named(STORES["records_refused"]))
def test_records_that_a_writer_refuses(case: dict[str, Any]) -> None:
    """A key or roles that the text does not know are never written."""
    with pytest.raises(ValueError):
        record_of(case, "00112233aabbccdd", bytes(32), bytes(16))


@pytest.mark.parametrize("case", named(STORES["stores"]))
def test_store_vectors(case: dict[str, Any]) -> None:
    """Each good store reads, from its documents and from its file, to the keys and roles of the specification."""
    found = read(case)
    assert (found.store, found.root.hex(), found.fingerprint.hex()) == (case["store"], case["root"], case["root_fingerprint"])
    keys = [key_of(told) for told in case["keys"]]
    for purpose, held in (("data", found.data_keys), ("index", found.index_keys)):
        assert held == {key.kid: key for key in keys if key.purpose == purpose}
    assert found.roles == roles_of(case["roles"])
    records = keystore.from_file(json.dumps(case["file"]))
    same = sorted(records) == sorted(bytes.fromhex(raw) for raw in case["records"])
    assert same == (case["name"] != "as made: the fields of a sealed record in another order")  # an encoder puts _id first
    assert read(case, records) == found
    assert keystore.to_file(records) == case["file"]


@pytest.mark.parametrize("case", named(STORES["reject"]))
def test_stores_that_do_not_read(case: dict[str, Any]) -> None:
    """Each bad store is refused with the one error that is right, and is made from a good one that there is."""
    assert error_of(lambda: read(case)) == case["error"]
    assert case["base"] in {good["name"] for good in STORES["stores"]}


@pytest.mark.parametrize("case", named(STORES["files_refused"]))
def test_files_that_are_none_of_a_store(case: dict[str, Any]) -> None:
    """What is not a file of a store is told before any record is looked at."""
    assert error_of(lambda: keystore.from_file(case["file"])) == case["error"] == "MalformedFile"


def test_states_lead_to_destroyed_and_never_back() -> None:
    """From every state of a key some way leads to destroyed, none leads back, and none leads to active."""
    for purpose, table in keystore.TRANSITIONS.items():
        assert set(table) == set(keystore.STATES[purpose])
        assert table["destroyed"] == set()
        assert all("active" not in later for later in table.values())
        order = [state for state in keystore.STATES[purpose] if state in table]
        for state, later in table.items():
            assert later or state == "destroyed"
            assert all(order.index(each) > order.index(state) for each in later)


# --- key files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named(FILES["whole"]))
def test_whole_key_files(case: dict[str, Any]) -> None:
    """A key file of version 1 or 2 gives the keys and the roles of the specification."""
    found = keystore.read_key_file(case["file"])
    for part in ("keys", "index_keys"):
        held = {kid: key.hex() for kid, key in found[part].items()} if part in found else None
        assert held == case.get(part)
    assert all(found[name] == case[name] for name in ("primary", "search_by", "written") if name in case)


@pytest.mark.parametrize("case", named(FILES["whole"]))
def test_whole_key_files_in_the_library(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads each of them, to the same keys and roles."""
    monkeypatch.setenv("KEYS", case["file"])
    ring = KeyRing.from_env("KEYS")
    assert {kid: ring._data_key(kid)._material.hex() for kid in ring} == case["keys"]
    assert {kid: ring.index_key(kid)._material.hex() for kid in ring.index_keys} == case.get("index_keys", {})
    assert (ring.primary, ring.search_key) == (case["primary"], case.get("search_by"))
    assert ring.written_index_keys == tuple(sorted(case.get("written", [])))


@pytest.mark.parametrize("case", named(FILES["restricted"]))
def test_restricted_key_files(case: dict[str, Any]) -> None:
    """What is made of whole keys for these capabilities is the file of the specification, and holds nothing else."""
    whole = json.loads(next(each["file"] for each in FILES["whole"] if each["name"] == case["from"]))
    materials = keystore.read_key_file(json.dumps(whole))
    keys, index_keys = (
        [keystore.FileKey(entry["kid"], materials[part][entry["kid"]], entry["created"]) for entry in whole[part]]
        for part in ("keys", "index_keys")
    )
    made = keystore.restricted_file(
        case["capabilities"],
        case["contexts"],
        keys,
        index_keys=index_keys,
        search_by=whole["search_by"],
        written=whole["written"],
    )
    for name in ("capabilities", "contexts", "written"):
        assert sorted(made.pop(name)) == sorted(case["file"][name])
    assert made == {name: value for name, value in case["file"].items() if name in made}
    found = keystore.read_key_file(json.dumps(case["file"]))
    for part, purpose in (("keys", "authenticate"), ("index_keys", "index")):
        held = {kid: {context: key.hex() for context, key in each.items()} for kid, each in found[part].items()}
        assert held == case["working_keys"][part]
        for kid, of in found[part].items():
            assert of == {context: reference.derive(materials[part][kid], purpose, context) for context in case["contexts"]}
    wanted = {"keys": {"verify", "metadata"}, "index_keys": {"search"}}
    assert all(bool(found[part]) == bool(names & set(case["capabilities"])) for part, names in wanted.items())
    text = json.dumps(case["file"])
    assert not any(entry["material"] in text for entry in whole["keys"] + whole["index_keys"])


@pytest.mark.parametrize("case", named(FILES["refused"]))
def test_key_files_that_are_refused(case: dict[str, Any]) -> None:
    """Anything else is an error of configuration."""
    assert error_of(lambda: keystore.read_key_file(case["file"])) == case["error"] == "ConfigurationError"


@pytest.mark.parametrize("case", named(FILES["refused"]))
def test_key_files_that_are_refused_by_the_library(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The library refuses them too, as an error of configuration."""
    monkeypatch.setenv("KEYS", case["file"])
    with pytest.raises(ConfigurationError):
        KeyRing.from_env("KEYS")


@pytest.mark.parametrize("case", named(FILES["restricted"]))
def test_restricted_key_files_in_the_library(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library makes each of them of the whole keys, and reads it to a ring that makes the same file again."""
    monkeypatch.setenv("KEYS", next(each["file"] for each in FILES["whole"] if each["name"] == case["from"]))
    restricted = KeyRing.from_env("KEYS").restrict(*case["capabilities"], contexts=case["contexts"])
    monkeypatch.setenv("RESTRICTED", json.dumps(case["file"]))
    for name, ring in (("made", restricted), ("read", KeyRing.from_env("RESTRICTED"))):
        ring.to_file(tmp_path / name)
        found = json.loads((tmp_path / name).read_text())
        assert found.keys() == case["file"].keys()
        for part, value in found.items():
            unordered = part in ("capabilities", "contexts", "written")
            assert (sorted(value) if unordered else value) == (sorted(case["file"][part]) if unordered else case["file"][part])


# --- the local key-encryption key in the library --------------------------------------------------------------------


@pytest.mark.parametrize("case", named(STORES["local"]))
def test_local_vectors_in_the_library(case: dict[str, Any]) -> None:
    """`LocalKMS` unwraps what the specification wraps, and the reference what `LocalKMS` wraps."""
    kek, secret = bytes.fromhex(case["kek"]), bytes.fromhex(case["secret"])
    kms = LocalKMS("0" * 16, kek)
    assert kms.unwrap(bytes.fromhex(case["wrapped"])) == secret
    assert keystore.local_unwrap(kek, kms.wrap(secret)) == secret


@pytest.mark.parametrize("case", named(STORES["local_refused"]))
def test_local_vectors_that_are_refused_by_the_library(case: dict[str, Any]) -> None:
    """What the reference does not unwrap, `LocalKMS` does not unwrap either, and says that trying again will not help."""
    with pytest.raises(KMSError) as caught:
        LocalKMS("0" * 16, bytes.fromhex(case["kek"])).unwrap(bytes.fromhex(case["wrapped"]))
    assert not caught.value.temporary
    assert STORES["errors"][case["error"]] == "KMSError"


@pytest.mark.parametrize("case", named(STORES["local_files"]))
def test_local_files_in_the_library(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """`LocalKMS` reads each file to the same key and identity."""
    monkeypatch.setenv("KEK", case["file"])
    kms = LocalKMS.from_env("KEK")
    assert kms.identity == case["identity"]
    assert keystore.local_unwrap(bytes.fromhex(case["kek"]), kms.wrap(b"secret")) == b"secret"


@pytest.mark.parametrize("case", named(STORES["local_files_refused"]))
def test_local_files_that_are_refused_by_the_library(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And refuses the others as an error of configuration."""
    monkeypatch.setenv("KEK", case["file"])
    with pytest.raises(ConfigurationError):
        LocalKMS.from_env("KEK")


def places_in(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything in a JSON value, the way there."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [each for name, value in inner for each in ((*place, name), *places_in(value, (*place, name)))]


def edited(content: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """With one value at random another one, in upper case, missing, or a little different."""
    changed = copy.deepcopy(content)
    place = chance.choice(places_in(changed))
    holder: Any = changed
    for name in place[:-1]:
        holder = holder[name]
    name, value = place[-1], holder[place[-1]]
    others = [None, True, 0, 1.0, "", "x", [], {}, ["a"], "a b", "2020-01-01", "2020-01-01T00:00:00Z", "ab" * 8, "ab " * 8]
    match chance.randrange(4):
        case 0:
            holder[name] = chance.choice(others)
        case 1:
            del holder[name]
        case 2 if isinstance(value, str):
            at = chance.randrange(len(value) + 1)
            holder[name] = value[:at] + chance.choice(["A", " ", "=", "\n", "é", "0", "-"]) + value[at + chance.randrange(2) :]
        case _ if isinstance(value, str):
            holder[name] = value.upper()
        case _:
            holder[name] = [value, value]
    return changed


@pytest.mark.parametrize("kind", ["whole", "restricted", "key-encryption key"])
def test_any_edit_of_a_file_is_judged_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the specification takes the library takes, and what it refuses the library refuses."""
    chance, answers = random.Random(kind), Counter[bool]()  # noqa: S311 - an example, and the same one in every run
    whole = KeyRing.generate().with_key(DataKey.generate(), primary=False).with_index_key(IndexKey.generate())
    for number in range(400):
        if kind == "key-encryption key":
            content = json.loads(local._content())
        elif kind == "whole":
            content = json.loads((whole if number % 2 else KeyRing([DataKey.generate()]))._as_json())
        else:
            content = json.loads(whole.restrict("metadata", *(["search"] if number % 2 else []), contexts=["a", "é"])._as_json())
        text = json.dumps(edited(content, chance) if number % 10 else content)
        monkeypatch.setenv("EDITED", text)
        read, library = (
            (keystore.read_local_file, LocalKMS.from_env)
            if kind == "key-encryption key"
            else (keystore.read_key_file, KeyRing.from_env)
        )
        taken = [is_taken(read, text, keystore.ConfigurationError), is_taken(library, "EDITED", ConfigurationError)]
        assert taken[0] == taken[1], text
        answers[taken[0]] += 1
    assert min(answers.values()) > 4
    assert len(answers) == 2


def is_taken(read: Callable[[str], object], given: str, error: type[Exception]) -> bool:
    try:
        read(given)
    except error:
        return False
    return True
