"""The specification: the library and the reference agree, on every vector and on thousands of random models."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import random
import shutil
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal
from uuid import UUID

import bson
import pytest
from bson import json_util
from bson.binary import UuidRepresentation
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel, ConfigDict, Field, SecretBytes, SecretStr, create_model

from mongo_envelope import DataKey, DocumentCodec, KeyRing, Queryable, Sensitive, envelope
from mongo_envelope.errors import ConfigurationError, MalformedEnvelopeError, MongoEnvelopeError, SchemaError
from mongo_envelope.schema import Schema

SPEC = Path(__file__).parents[1] / "spec"
JSON_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, uuid_representation=UuidRepresentation.STANDARD, tz_aware=True, tzinfo=UTC
)
OWN = {"data", "idx", "iv", "kid", "v", "hmac"}


def loaded_reference() -> ModuleType:
    """The reference, which is a file beside the specification and in no package."""
    found = importlib.util.spec_from_file_location("reference", SPEC / "reference.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


reference = loaded_reference()


def vectors(file: str, part: str = "cases") -> list[dict[str, Any]]:
    """One part of one vector file."""
    content = json.loads((SPEC / "vectors" / f"{file}.json").read_text())
    assert content["format"] == "mongo_envelope/v1"
    found: list[dict[str, Any]] = content[part]
    return found


def ring(keys: dict[str, str]) -> KeyRing:
    """The keys of a vector; a ring is never empty, so beside them a key that no vector names."""
    return KeyRing([*(DataKey(kid, bytes.fromhex(key)) for kid, key in keys.items()), DataKey("no-vector-names-this", bytes(32))])


def values(extended: Any) -> dict[str, Any]:
    """Fields that a vector gives in extended JSON."""
    found: dict[str, Any] = json_util.loads(json.dumps(extended), json_options=JSON_OPTIONS)
    return found


def canonical(fields: dict[str, Any]) -> dict[str, str]:
    """Fields in a form in which values of different BSON types are never equal; the order at the top does not count."""
    return {name: json_util.dumps(value, json_options=JSON_OPTIONS) for name, value in fields.items()}


def metadata_of(document: dict[str, Any]) -> dict[str, Any]:
    """A document without the envelope's own fields."""
    return {name: value for name, value in document.items() if name not in OWN}


def field_type(identity: object) -> type | None:
    """The type of a field that takes this ``_id``."""
    return next((kind for kind in (int, str, ObjectId, UUID) if isinstance(identity, kind)), None)


def permissive(identity: type) -> type[BaseModel]:
    """A model that takes any payload."""
    return create_model("Permissive", __config__=ConfigDict(extra="allow", arbitrary_types_allowed=True), id=(identity, ...))


def codec(case: dict[str, Any], identity: type = ObjectId) -> DocumentCodec[BaseModel]:
    """The library's highest entry point for a vector."""
    return DocumentCodec(permissive(identity), keys=ring(case["keys"]), context=case["context"])


def error_of(call: Callable[[], object]) -> str:
    """The name of the error that a call raises; nothing if it raises none."""
    try:
        call()
    except MongoEnvelopeError as error:
        return type(error).__name__
    return ""


# --- the vectors ----------------------------------------------------------------------------------------------------


def test_every_vector_is_counted() -> None:
    """A vector file that grows, shrinks or is no longer read fails here."""
    assert sorted(path.name for path in (SPEC / "vectors").iterdir()) == ["derive.json", "open.json", "reject.json", "seal.json"]
    counts = {"seal": len(vectors("seal")), "refused": len(vectors("seal", "refused"))}
    counts |= {file: len(vectors(file)) for file in ("open", "reject")}
    assert counts == {"seal": 31, "refused": 29, "open": 36, "reject": 432}
    assert Counter(case["error"] for case in vectors("reject")) == {
        "MalformedEnvelopeError": 188,
        "UnsupportedVersionError": 27,
        "UnknownKeyError": 13,
        "IntegrityError": 150,
        "PayloadError": 54,
    }
    assert sum(case["name"].startswith("payload: duplicate") for case in vectors("reject")) == 6
    for file in ("seal", "open", "reject"):
        names = [case["name"] for case in vectors(file)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", vectors("seal"), ids=lambda case: case["name"])
def test_seal_vectors(case: dict[str, Any]) -> None:
    """The library seals each input to the bytes of the specification, and opens them again."""
    keys = KeyRing([DataKey(case["kid"], bytes.fromhex(case["key"]))])
    metadata = values(case["metadata"]) | ({"idx": values(case["idx"])} if "idx" in case else {})
    payload, context = case["payload"].encode(), case["context"]
    raw = envelope._seal_with(metadata, payload, keys=keys, context=context, iv=bytes.fromhex(case["iv"]))
    assert raw.hex() == case["document"]
    opened = envelope.open(raw, keys=keys, context=context)
    assert opened.payload == payload
    assert canonical(metadata_of(opened.document)) == canonical(values(case["metadata"]))


def good_documents() -> list[dict[str, Any]]:
    """The vectors of open.json, and those of seal.json in the same form."""
    return [*vectors("open"), *({"keys": {case["kid"]: case["key"]}} | case for case in vectors("seal"))]


@pytest.mark.parametrize("case", good_documents(), ids=lambda case: case["name"])
def test_open_vectors(case: dict[str, Any]) -> None:
    """Each good document opens to its metadata and payload, by `envelope.open` and, as plain values, by `open_raw`."""
    raw = bytes.fromhex(case["document"])
    opened = envelope.open(raw, keys=ring(case["keys"]), context=case["context"])
    metadata, payload = values(case["metadata"]), json.loads(case["payload"])
    assert canonical(metadata_of(opened.document)) == canonical(metadata)
    assert opened.payload.decode() == case["payload"]
    assert envelope.identify(raw) == metadata["_id"]
    for document in (raw, RawBSONDocument(raw)):
        clear = {("id" if name == "_id" else name): value for name, value in metadata_of(opened.document).items()}
        assert repr(codec(case).open_raw(document)) == repr(clear | payload)


def test_open_vectors_as_models() -> None:
    """Each good document whose ``_id`` fits a field opens to a model that has the payload's values."""
    left_out = []
    for case in good_documents():
        identity, payload = values(case["metadata"])["_id"], json.loads(case["payload"])
        if (kind := field_type(identity)) is None:
            left_out.append(case["name"])
            continue
        model = codec(case, kind).open(bytes.fromhex(case["document"]))
        assert repr({"id": identity} | (model.__pydantic_extra__ or {})) == repr({"id": identity} | payload)
    assert left_out == ["_id a document"]


@pytest.mark.parametrize("group", sorted({case["name"].partition(":")[0] for case in vectors("reject")}))
def test_reject_vectors(group: str) -> None:
    """Each bad document is refused with the one error that is right, at every entry point."""
    for case in (case for case in vectors("reject") if case["name"].partition(":")[0] == group):
        name, raw = case["name"], bytes.fromhex(case["document"])
        identity = envelope.identify(raw)
        door = codec(case, field_type(identity) or ObjectId)
        # `envelope.open` ends at step 5.2: the payload is for those who know what it should be.
        found = error_of(lambda: envelope.open(raw, keys=door._keys, context=case["context"]))  # noqa: B023
        assert found == ("" if case["error"] == "PayloadError" else case["error"]), name
        for document in (raw, RawBSONDocument(raw)) if case["error"] == "PayloadError" else (raw,):
            assert error_of(lambda: door.open_raw(document)) == case["error"], name  # noqa: B023
        if "last_wins" in case:
            assert name.startswith("payload: duplicate")
            assert door.open(raw).__pydantic_extra__ == json.loads(case["last_wins"]), name
        else:
            assert error_of(lambda: door.open(raw)) == case["error"], name  # noqa: B023


def test_a_refusal_says_which_document_and_nothing_of_its_content() -> None:
    """An error of a codec names the ``_id``, unverified, and quotes no other byte of the document."""
    for case in vectors("reject"):
        raw = bytes.fromhex(case["document"])
        with pytest.raises(MongoEnvelopeError) as caught:
            codec(case).open_raw(raw)
        identity = envelope.identify(raw)
        assert caught.value.document_id == (None if identity is None else repr(identity)[:64])  # type: ignore[attr-defined]
        assert not any(word in str(caught.value) for word in ("ada@", "Ada", "Bern", "acme"))


@pytest.mark.parametrize("case", vectors("seal", "refused"), ids=lambda case: case["name"])
def test_what_a_sealer_must_refuse_is_refused(case: dict[str, Any]) -> None:
    """The library refuses each input of section 2, at the latest when it seals, and names when the model is read."""
    metadata = values(case["metadata"]) | ({"idx": values(case["idx"])} if "idx" in case else {})

    def seal() -> bytes:
        keys = KeyRing([DataKey(case["kid"], bytes.fromhex(case["key"]))])
        payload, iv = case["payload"].encode(), bytes.fromhex(case["iv"])
        return envelope._seal_with(metadata, payload, keys=keys, context=case["context"], iv=iv)

    if case["name"] in ("empty name", "name starts with $", "name contains a dot"):
        assert seal()  # names do not change from document to document, so they are refused where they are made: below
    else:
        with pytest.raises((MalformedEnvelopeError, ConfigurationError, ValueError)):
            seal()
    if "name" in case["name"]:
        name = next(name for name in metadata if name != "_id")
        with pytest.raises(SchemaError, match="stored name"):
            Schema.of(create_model("M", id=(int, ...), field=(Annotated[int, Queryable(name=name)], ...)))


# --- the files ------------------------------------------------------------------------------------------------------


def imports(path: Path) -> set[str]:
    """The packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").partition(".")[0])
    return found


def test_the_reference_is_independent() -> None:
    """The reference and its generator import nothing of the library, and name no way to import it unseen."""
    assert imports(SPEC / "reference.py") - set(sys.stdlib_module_names) == {"bson", "cryptography"}
    assert imports(SPEC / "generate_vectors.py") - set(sys.stdlib_module_names) == {"bson", "cryptography", "reference"}
    for path in SPEC.glob("*.py"):
        named = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not named & {"importlib", "__import__", "exec", "eval"}


def generate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The generator, as `make vectors` runs it."""
    command = [sys.executable, str(folder / "generate_vectors.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_files_are_what_the_generator_writes() -> None:
    """`--check` finds no difference between the reference, the vectors and the worked example."""
    found = generate(SPEC, "--check")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_check_tells_and_writing_mends(tmp_path: Path) -> None:
    """A vector that somebody edited is told by `--check`, which writes nothing, and mended by a run without it."""
    folder = tmp_path / "spec"
    shutil.copytree(SPEC, folder, ignore=shutil.ignore_patterns("__pycache__"))
    good = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".md")}
    edited = {
        folder / "vectors" / "reject.json": (b"IntegrityError", b"PayloadError"),
        folder / "envelope-v1.md": (b"\nkid      k1", b"\nkid      k2"),
    }
    for path, (old, new) in edited.items():
        path.write_bytes(good[path].replace(old, new, 1))
    (folder / "vectors" / "open.json").unlink()
    found = generate(folder, "--check")
    assert found.returncode == 1
    assert all(name in found.stdout for name in ("reject.json", "open.json", "envelope-v1.md"))
    assert not (folder / "vectors" / "open.json").exists()
    assert generate(folder).returncode == 0
    assert {path: path.read_bytes() for path in good} == good


# --- random models --------------------------------------------------------------------------------------------------


class Colour(Enum):
    """An enum of mixed values."""

    RED = "red"
    GREEN = 2


class Address(BaseModel):
    """A nested model."""

    city: str
    since: date | None = None
    codes: set[int] = Field(default_factory=set)


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: Decimal
    y: float


def text(rng: random.Random) -> str:
    """Text with letters of every width, and characters that JSON escapes."""
    return "".join(rng.choices(string.ascii_letters + 'äß€日\U0001f600"\\/\n\0 ', k=rng.randrange(12)))


def instant(rng: random.Random) -> datetime:
    """A moment with microseconds, in some zone."""
    zone = rng.choice([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))])
    return datetime.fromtimestamp(rng.randrange(-(2**31), 2**33), UTC).replace(microsecond=rng.randrange(10**6)).astimezone(zone)


def decimal(rng: random.Random) -> Decimal:
    """An amount whose zeros count."""
    return Decimal(rng.randrange(-(10**12), 10**12)).scaleb(-rng.randrange(6))


#: Types that may stand in the clear, each with a maker of values …
CLEAR: list[tuple[Any, Callable[[random.Random], Any]]] = [
    (int, lambda rng: rng.randrange(-(2**63), 2**63) if rng.random() < 0.5 else rng.randrange(-9, 9)),
    (str, text),
    (bool, lambda rng: rng.random() < 0.5),
    (float, lambda rng: rng.choice([rng.uniform(-1e9, 1e9), 0.0, -0.0, 5e-324, float("inf")])),
    (datetime, instant),
    (date, lambda rng: date.fromordinal(rng.randrange(1, 3_000_000))),
    (Decimal, decimal),
    (UUID, lambda rng: UUID(int=rng.getrandbits(128))),
    (bytes, lambda rng: rng.randbytes(rng.randrange(9))),
    (Colour, lambda rng: rng.choice(list(Colour))),
    (ObjectId, lambda rng: ObjectId(rng.randbytes(12))),
    (Literal["a", 1], lambda rng: rng.choice(["a", 1])),
    (str | None, lambda rng: rng.choice([None, text(rng)])),
    (list[str], lambda rng: [text(rng) for _ in range(rng.randrange(3))]),
]
#: … and types that may not, or not for this test.
SEALED: list[tuple[Any, Callable[[random.Random], Any]]] = [
    *CLEAR,
    (int, lambda rng: rng.getrandbits(200)),
    (timedelta, lambda rng: timedelta(days=rng.randrange(-999, 999), microseconds=rng.randrange(10**9))),
    (time, lambda rng: instant(rng).time()),
    (SecretStr, lambda rng: SecretStr(text(rng))),
    (SecretBytes, lambda rng: SecretBytes(rng.randbytes(4))),
    (set[int], lambda rng: {rng.randrange(99) for _ in range(3)}),
    (tuple[int, str], lambda rng: (rng.randrange(9), text(rng))),
    (dict[str, Decimal], lambda rng: {text(rng): decimal(rng) for _ in range(2)}),
    (dict[int, bool], lambda rng: {rng.randrange(99): True for _ in range(2)}),
    (IPv4Address | None, lambda rng: rng.choice([None, IPv4Address(rng.getrandbits(32))])),
    (IPv6Network, lambda rng: IPv6Network((rng.getrandbits(64) << 64, 64))),
    (Address, lambda rng: Address(city=text(rng), since=rng.choice([None, date(2024, 2, 29)]), codes={rng.randrange(9)})),
    (list[Address], lambda rng: [Address(city=text(rng)) for _ in range(rng.randrange(3))]),
    (Point, lambda rng: Point(decimal(rng), rng.random())),
    (Any, lambda rng: rng.choice([None, 1, text(rng), [1.5, {"a": text(rng)}], {"$b": 1}])),
]
IDENTITIES = [each for each in CLEAR if each[0] in (int, str, UUID, ObjectId)]


def exact(value: object) -> object:
    """A value in a form in which nothing is equal that differs in type, sign, digits or offset; sets have no order."""
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        return type(value), {name: exact(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return [(exact(name), exact(each)) for name, each in value.items()]
    if isinstance(value, list | tuple | set):
        return type(value), [exact(each) for each in (sorted(value) if isinstance(value, set) else value)]
    if isinstance(value, SecretStr | SecretBytes):
        return type(value), value.get_secret_value()
    return type(value), value.isoformat() if isinstance(value, datetime | time) else repr(value)


def random_model(rng: random.Random) -> tuple[type[BaseModel], dict[str, Callable[[random.Random], Any]]]:
    """A model class of an id and up to ten fields, of which some are queryable; and a maker of values for each field."""
    fields: dict[str, Any] = {}
    identity, makers = rng.choice(IDENTITIES)[0], {}
    makers["id"] = dict(IDENTITIES)[identity]
    fields["id"] = (identity, ...)
    for i in range(rng.randrange(11)):
        name = "".join(rng.choices(string.ascii_lowercase + "é", k=4)) + str(i)
        if rng.random() < 0.4:
            annotation, makers[name] = rng.choice(CLEAR)
            fields[name] = (Annotated[annotation, Queryable(name=rng.choice([None, f"{name}ß", f"Z{name}"]))], ...)
        else:
            annotation, makers[name] = rng.choice(SEALED)
            fields[name] = (rng.choice([annotation, Annotated[annotation, Sensitive()]]), ...)
    return create_model("Random", __config__=ConfigDict(arbitrary_types_allowed=True), **fields), makers


@pytest.mark.parametrize("seed", range(4))
def test_reference_and_library_open_what_the_other_sealed(seed: int) -> None:
    """2,500 instances of 25 random models: sealed by either, opened by the other, nothing lost and nothing read otherwise."""
    rng = random.Random(seed)  # noqa: S311 - the same models in every run
    key = rng.randbytes(32)
    for _ in range(25):
        model, makers = random_model(rng)
        context = f"c{rng.random()}"
        codec = DocumentCodec(model, keys=KeyRing([DataKey("k1", key)]), context=context)
        names = {field.stored: field.name for field in codec.schema.stored}
        for _ in range(100):
            instance = model(**{name: make(rng) for name, make in makers.items()})
            raw = codec.seal_bson(instance)
            metadata, payload = reference.open(raw, keys={"k1": key}, context=context)
            expected = {names[stored]: value for stored, value in metadata.items()} | payload
            assert repr(codec.open_raw(raw)) == repr({name: expected.pop(name) for name in names.values()} | expected)

            rewritten = json.dumps(payload, ensure_ascii=rng.random() < 0.5).encode()
            again = reference.seal(metadata, rewritten, key=key, kid="k1", context=context, iv=rng.randbytes(16))
            for opened in (codec.open(raw), codec.open(again), codec.open(bson.decode(again, envelope.CODEC_OPTIONS))):
                assert opened == instance
                assert exact(opened) == exact(instance)
