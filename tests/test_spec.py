"""The specification: the library and the reference agree, on every vector and on thousands of random models and index values."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import hmac
import importlib.util
import ipaddress
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
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Annotated, Any, Literal
from uuid import UUID

import bson
import pytest
from bson import json_util
from bson.binary import UuidRepresentation
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ByteSize, ConfigDict, Field, SecretBytes, SecretStr, create_model

from mongo_envelope import DataKey, DocumentCodec, KeyRing, Queryable, Sensitive, envelope, normalize
from mongo_envelope.blind import BlindIndex, Bucket, Definition, Indexer, Part, encode
from mongo_envelope.datakey import IndexKey
from mongo_envelope.errors import ConfigurationError, MalformedEnvelopeError, MongoEnvelopeError, SchemaError
from mongo_envelope.normalize import NOTHING, Normalizer, bucket, normalizer
from mongo_envelope.padding import Padding, padded, padme
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


def vectors(file: str, part: str = "cases") -> Any:
    """One part of one vector file."""
    content = json.loads((SPEC / "vectors" / f"{file}.json").read_text())
    assert content["format"] == "mongo_envelope/v1"
    found: Any = content[part]
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
    files = ["derive.json", "index.json", "open.json", "padding.json", "reject.json", "seal.json", "unassigned14.txt"]
    elsewhere = ["capabilities.json", "keystore.json"]  # test_spec_keystore.py
    assert sorted(path.name for path in (SPEC / "vectors").iterdir()) == sorted(files + elsewhere)
    counts = {"seal": len(vectors("seal")), "refused": len(vectors("seal", "refused"))}
    counts |= {file: len(vectors(file)) for file in ("open", "reject")}
    counts |= {"padding": len(vectors("padding")), "lengths": len(vectors("padding", "lengths"))}
    counts |= {"index": len(vectors("index")), "index, refused": len(vectors("index", "refused"))}
    assert counts == {
        "seal": 33,
        "refused": 33,
        "open": 42,
        "reject": 448,
        "padding": 17,
        "lengths": 145,
        "index": 348,
        "index, refused": 90,
    }
    assert Counter(case["error"] for case in vectors("reject")) == {
        "MalformedEnvelopeError": 203,
        "UnsupportedVersionError": 27,
        "UnknownKeyError": 13,
        "IntegrityError": 151,
        "PayloadError": 54,
    }
    assert sum(case["name"].startswith("payload: duplicate") for case in vectors("reject")) == 6
    for file in ("seal", "open", "padding", "reject", "index"):
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


@pytest.mark.parametrize("case", vectors("padding"), ids=lambda case: case["name"])
def test_padding_vectors(case: dict[str, Any]) -> None:
    """The library pads each payload, and seals it, to the bytes of the specification."""
    keys = KeyRing([DataKey(case["kid"], bytes.fromhex(case["key"]))])
    metadata = values(case["metadata"]) | ({"idx": values(case["idx"])} if "idx" in case else {})
    payload = padded(case["payload"].encode())
    assert payload == reference.pad(case["payload"].encode())
    assert len(payload) == case["length"]
    raw = envelope._seal_with(metadata, payload, keys=keys, context=case["context"], iv=bytes.fromhex(case["iv"]))
    assert raw.hex() == case["document"]


def test_padding_lengths() -> None:
    """Each length becomes the one of the specification."""
    for length, expected in vectors("padding", "lengths").items():
        assert padme(int(length)) == reference.padme(int(length)) == expected


def good_documents() -> list[dict[str, Any]]:
    """The vectors of open.json, and those of seal.json and padding.json in the same form."""
    sealed = ({"keys": {case["kid"]: case["key"]}} | case for case in vectors("seal"))
    of_padding = ((case, case["payload"].rstrip(" ")) for case in vectors("padding"))
    spaces = ((case, text + " " * (case["length"] - len(text.encode()))) for case, text in of_padding)
    return [*vectors("open"), *sealed, *({"keys": {case["kid"]: case["key"]}} | case | {"payload": text} for case, text in spaces)]


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


# --- blind indexes --------------------------------------------------------------------------------------------------

ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)
#: what a vector calls a type, and what makes a value of the library's from what the vector has
MAKERS: dict[str, Callable[[Any], Any]] = {
    "integer": int,
    "decimal": Decimal,
    "fraction": Fraction,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda each: timedelta(*each),
    "set": lambda each: set(map(held, each)),
    "secret": lambda each: (SecretStr if isinstance(held(each), str) else SecretBytes)(held(each)),
    "member": lambda each: Enum("Member", {"ONE": held(each)})["ONE"],
    "url": AnyUrl,
    "pureposixpath": PurePosixPath,
    **{each.__name__.lower(): each for each in ADDRESSES},
}
EQUAL_BOUNDS = "bucket:10:5:5: bounds that are equal"  # which the text allows, and a `Bucket` does not
OUTSIDE = "value: a URL that is not ASCII"  # which no `AnyUrl` holds


def held(tagged: Any) -> Any:
    """A value of a vector of index.json, as a model would hold it."""
    if isinstance(tagged, list):
        return [held(each) for each in tagged]
    if isinstance(tagged, dict) and "type" in tagged:
        return MAKERS[tagged["type"]](tagged["value"])
    found = values({"value": tagged})["value"]
    return int(found) if isinstance(found, Int64) else found


def normalizer_of(id: str, gives: Any = None) -> Normalizer:
    """The library's normaliser of an id; ``gives``: what an application's function of this id gives."""
    kind, *arguments = id.split(":")
    if kind == "bucket" and arguments[0] in ("month", "year"):
        found = bucket(arguments[0], *(map(date.fromisoformat, arguments[1:]) if arguments[1:] else (None, None)))
    elif kind == "bucket":
        width, *bounds = (Decimal(each) if "." in each else int(each) for each in arguments)
        found = bucket(width, *(bounds or (None, None)))
    elif kind == "phone" or id in normalize.NAMES:
        found = normalizer(id, None)
    else:
        found = normalizer(lambda _: gives, id)
    assert found.id == id
    return found


def declared(case: dict[str, Any]) -> tuple[Definition, dict[str, Any]]:
    """The index of a vector, and a value for each of its fields."""
    fields = {f"f{number}": held(part) for number, part in enumerate(case["parts"])}
    gives = held(case["gives"]) if "gives" in case else None
    norms = [normalizer_of(id, gives) for id in case["normaliser"].split("+")]
    parts = [Part(field, norm) for field, norm in zip(fields, norms, strict=True)]
    parts[-1] = dataclasses.replace(parts[-1], many=isinstance(fields[parts[-1].field], list | set))
    definition = Definition(case["index"], tuple(parts), case["bits"], unique=False, none=case["none"], ranges=False)
    return definition, fields


def index_ring(keys: dict[str, str]) -> KeyRing:
    """The index keys of a vector, all of them written, and the data key that every ring has."""
    index_keys = [IndexKey(kid, bytes.fromhex(key)) for kid, key in keys.items()]
    return KeyRing([DataKey("k1", bytes(32))], index_keys=index_keys, written=keys)


def index_cases(*, phone: bool) -> list[dict[str, Any]]:
    """The vectors of index.json: those that the library refuses because nobody can ring that number, or the others."""
    cases = (case for case in vectors("index") if case["name"] != EQUAL_BOUNDS)
    return [case for case in cases if phone == (case["normaliser"].startswith("phone") and not case["encodings"])]


@pytest.mark.parametrize("case", index_cases(phone=False), ids=lambda case: case["name"])
def test_index_vectors(case: dict[str, Any]) -> None:
    """The library makes of each value the encodings, and stores the index values, that the specification names."""
    definition, fields = declared(case)
    assert definition.normalizer_id == case["normaliser"]
    assert [each.hex() for each in definition.encodings(fields)] == case["encodings"]
    idx = Indexer([definition], index_ring(case["keys"]), case["context"]).of(fields)
    kids = sorted(case["keys"])
    assert idx.pop("kid") == (kids if len(kids) > 1 else kids[0])
    found = [each.hex() for each in value] if isinstance(value := idx.get(case["index"]), list) else value and value.hex()
    assert found == case["stored"]
    assert idx.keys() == {case["index"]}


@pytest.mark.parametrize("case", index_cases(phone=True), ids=lambda case: case["name"])
def test_what_is_no_phone_number_is_refused(case: dict[str, Any]) -> None:
    """What has no normal form as a phone number is an error of the library, so that nobody stores what is never found."""
    definition, fields = declared(case)
    with pytest.raises(ValueError, match="f0: not a phone number"):
        definition.encodings(fields)


def test_index_keys_encodings_and_values_one_by_one() -> None:
    """Each step of an index value is that of the vectors: the key of the index, the normal form, its encoding, the tag cut."""
    for case in index_cases(phone=False):
        definition, fields = declared(case)
        for kid, key in case["index_keys"].items():
            authenticator = IndexKey(kid, bytes.fromhex(case["keys"][kid])).authenticator(
                case["context"], case["index"], case["normaliser"]
            )
            for each in map(bytes.fromhex, [*case["encodings"], ""]):
                assert authenticator.tag(each) == hmac.digest(bytes.fromhex(key), each, "sha256"), case["name"]
            stored = case["stored"] if isinstance(case["stored"], list) else [case["stored"]]
            tags = {authenticator.tag(bytes.fromhex(each))[: case["bits"] // 8].hex() for each in case["encodings"]}
            assert tags <= set(stored), case["name"]
        if len(definition.parts) == 1 and fields["f0"] is not None and not definition.owner.many:
            form = definition.owner.form(fields["f0"])
            assert ([] if form is NOTHING else [encode(form).hex()]) == case["encodings"], case["name"]


@pytest.mark.parametrize("name", ["exact", "casefold", "digits"])
def test_normal_forms_of_every_character(name: str) -> None:
    """The normal forms of all that Unicode 14.0 assigns have the digest of the specification, on this Python as on any other."""
    form, digest = getattr(normalize, name), hashlib.sha256()
    for code in range(0x110000):
        if not 0xD800 <= code <= 0xDFFF and code not in reference.unassigned():
            found = form(chr(code))
            digest.update((b"" if found is NOTHING else found.encode()) + b"\n")
    assert digest.hexdigest() == vectors("index", "unicode")[name]


def indexed(held: Any, index: BlindIndex | Bucket, **others: Any) -> Schema[BaseModel]:
    """The schema of a model with an index on a field of this type."""
    fields = {name: (annotation, ...) for name, annotation in others.items()}
    return Schema.of(create_model("M", id=(int, ...), **fields, field=(Annotated[held, Sensitive(index=index)], ...)))


def index_of(case: dict[str, Any]) -> None:
    """Declare, in a model, the index of a vector that is refused for a type or a shape."""
    *around, last = map(held, case["parts"])
    norm = case["normaliser"].split("+")[-1]
    kinds = [list[str] if isinstance(each, list) else type(each) for each in (*around, last)]
    if isinstance(last, list) and any(isinstance(each, list) for each in last):
        kinds[-1] = list[list[str]]
    width = int(norm.partition(":")[2]) if norm == "bucket:10" else norm.partition(":")[2]
    within = {f"f{number}": kind for number, kind in enumerate(kinds[:-1])}
    index = Bucket(width=width) if norm.startswith("bucket") else BlindIndex(normalize=norm, within=list(within))
    indexed(kinds[-1], index, **within)


def refuse_index(case: dict[str, Any]) -> None:
    """Do with the library what a vector says that must be refused."""
    what, _, detail = case["name"].partition(": ")
    if what in ("index name", "bits"):
        indexed(str, BlindIndex(name=case["index"], bits=case["bits"]))
    elif what.startswith("normaliser id"):
        normalizer(lambda _: held(case["gives"]), case["normaliser"])
    elif " of " in detail or "list" in detail:
        index_of(case)
    elif what == "value":
        encode(held(case["parts"][0]))
    else:
        definition, fields = declared(case)
        Indexer([definition], index_ring(case["keys"]), case["context"]).of(fields)


@pytest.mark.parametrize("case", vectors("index", "refused"), ids=lambda case: case["name"])
def test_what_has_no_index_is_refused(case: dict[str, Any]) -> None:
    """What the specification calls an error of the caller is one: of the model, of the keys, or of the value."""
    if case["name"] == OUTSIDE:
        assert str(held(case["parts"][0])).isascii()
    else:
        error = ValueError if case["name"].startswith("value: a") and "list" not in case["name"] else MongoEnvelopeError
        with pytest.raises(error):
            refuse_index(case)


@pytest.mark.parametrize(
    ("width", "bounds"),
    [
        (0, ()),
        (-10, ()),
        (True, ()),
        (0.5, ()),
        (10**100, ()),
        (Decimal("1E100"), ()),
        (Decimal("9.9E-101"), ()),
        (Decimal("Infinity"), ()),
        (Decimal("NaN"), ()),
        ("week", ()),
        ("10", ()),
        (10, (0, None)),
        (10, (9, 0)),
        (10, (5, 5)),
        (10, (0, 0.5)),
        (10, (0, Decimal("Infinity"))),
        (10, (Decimal("NaN"), 9)),
        (10, (date(2024, 1, 1), date(2024, 12, 31))),
        ("year", (1900, 2100)),
        ("month", (date(2024, 12, 31), date(2024, 1, 1))),
        ("month", (datetime(2024, 1, 1), datetime(2024, 12, 31))),
    ],
    ids=repr,
)
def test_what_is_no_bucket_is_refused(width: Any, bounds: tuple[Any, ...]) -> None:
    """A width or bounds that no id can say, or that make no bucket, are refused when the index is declared."""
    with pytest.raises(SchemaError):
        bucket(width, *(bounds or (None, None)))


@pytest.mark.parametrize(
    ("width", "bounds", "id"),
    [
        (Decimal("1E+3"), (), "bucket:1000"),
        (Decimal("2.50"), (), "bucket:2.5"),
        (Decimal("0E1") + 1, (), "bucket:1"),
        (Decimal("1E-100"), (), "bucket:0." + 99 * "0" + "1"),
        (10, (Decimal("-1E+2"), Decimal("1E2")), "bucket:10:-100:100"),
        (10, (Decimal("-0"), 100), "bucket:10:0:100"),
        (10, (Decimal("-0.00"), Decimal("0.10")), "bucket:10:0:0.1"),
        (10, (-5, Decimal("-0.0")), "bucket:10:-5:0"),
        ("month", (date(1, 1, 1), date(9999, 12, 31)), "bucket:month:0001-01-01:9999-12-31"),
    ],
)
def test_one_bucket_has_one_id(width: Any, bounds: tuple[Any, ...], id: str) -> None:
    """Widths and bounds that are equal stand in the id in the one way to write them, which the reference reads."""
    assert bucket(width, *(bounds or (None, None))).id == id
    assert reference.normaliser(id, {})


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
    assert imports(SPEC / "reference.py") - set(sys.stdlib_module_names) == {"bson", "cryptography", "phonenumbers"}
    both = {"bson", "cryptography", "reference"}
    assert imports(SPEC / "keystore_reference.py") - set(sys.stdlib_module_names) == both
    assert imports(SPEC / "generate_vectors.py") - set(sys.stdlib_module_names) == both | {"keystore_reference"}
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
    """2,500 instances of 25 random models: sealed by either, padded or not, opened by the other, nothing lost or read otherwise."""
    rng = random.Random(seed)  # noqa: S311 - the same models in every run
    key = rng.randbytes(32)
    for _ in range(25):
        model, makers = random_model(rng)
        context = f"c{rng.random()}"
        padding: Padding = "padme" if seed % 2 else None
        codec = DocumentCodec(model, keys=KeyRing([DataKey("k1", key)]), context=context, padding=padding)
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


# --- blind indexes: random values -----------------------------------------------------------------------------------

offsets = st.timedeltas(timedelta(hours=-24, microseconds=1), timedelta(hours=24, microseconds=-1)).map(timezone)
addresses = st.one_of(
    st.builds(IPv4Address, st.integers(0, 2**32 - 1)),
    st.builds(lambda n, bits: ipaddress.IPv4Interface((n, bits)), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda n, bits: ipaddress.IPv4Network((n, bits), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(ipaddress.IPv6Address, st.integers(0, 2**128 - 1)),
    st.builds(lambda n, bits: ipaddress.IPv6Interface((n, bits)), st.integers(0, 2**128 - 1), st.integers(0, 128)),
    st.builds(lambda n, bits: IPv6Network((n, bits), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)),
    st.from_regex(r"fe80::[1-9a-f]%[a-z0-9\u00e4.]{1,9}", fullmatch=True).map(ipaddress.IPv6Address),
    st.from_regex(r"fe80::[1-9a-f]%[a-z0-9\u00e4.]{1,9}/64", fullmatch=True).map(ipaddress.IPv6Interface),
)
urls = st.from_regex(r"(?:https?|ftp|app)://[a-z\u00e4\u65e5]{1,9}\.de(?::[1-9][0-9])?/[a-z\u00e4%?#= ]{0,9}", fullmatch=True)
decimals = st.one_of(
    st.decimals(),
    st.builds(
        lambda sign, digits, e: Decimal((sign, digits, e)),
        st.integers(0, 1),
        st.lists(st.integers(0, 9), max_size=60).map(tuple),
        st.integers(-(10**9), 10**9),
    ),
)
#: the ends of the calendar, where UTC may be in a year that there is not
moments = st.one_of(
    st.datetimes(timezones=st.none() | offsets),
    st.builds(lambda day, zone: day.replace(tzinfo=zone), st.sampled_from([datetime.min, datetime.max]), offsets),
)
numbers = st.one_of(st.integers(), st.integers(-(10**405), 10**405), st.floats(), decimals)
texts = st.text() | st.text("aAeéßİΣς\u0301\u0323\u0327\U00010efd\U0001e08f\U00010d50\U00011f51\u0661\ufffe \t", max_size=9)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.builds(ByteSize, st.integers(0)),
    texts,
    st.binary(),
    st.binary().map(bytearray),
    moments,
    st.dates(),
    st.times(timezones=st.none() | offsets),
    st.timedeltas(),
    st.uuids(),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.fractions(),
    addresses,
    urls.map(AnyUrl),
)


def for_reference(value: Any) -> Any:
    """A value of the library's, as the reference takes it."""
    if isinstance(value, list | set):
        return [for_reference(each) for each in value]
    if isinstance(value, SecretStr | SecretBytes):
        return value.get_secret_value()
    return reference.Url(str(value)) if isinstance(value, AnyUrl) else value


@settings(max_examples=1500, deadline=None)
@given(st.one_of(scalars, st.lists(scalars, max_size=4)))
def test_reference_and_library_encode_alike(value: Any) -> None:
    """Every value that can be indexed has the same bytes in both."""
    assert encode(value) == reference.encode(for_reference(value))


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, {1}, pytest.param(object(), id="object"), 1j, range(3), PurePosixPath("/a"), "\ud800", [{1}], ["\ud800"]],
    ids=ascii,
)
def test_neither_encodes_what_has_no_encoding(value: Any) -> None:
    """A value without an encoding is a `ValueError` in both, which in the library does not quote it."""
    for function in (encode, reference.encode):
        with pytest.raises(ValueError):
            function(value)
    with pytest.raises(ValueError) as caught:
        encode(value)
    assert repr(value) not in str(caught.value)
    assert caught.value.__context__ is None


def forms(norm: Normalizer, value: Any) -> tuple[Any, Any]:
    """What the library and the reference make of a value; `NOTHING` if it has no normal form."""
    try:
        other = reference.normaliser(norm.id, {})(value)
    except reference.NoNormalFormError:
        other = NOTHING
    return norm.apply(value), other


@settings(max_examples=800, deadline=None)
@given(texts)
def test_reference_and_library_normalize_text_alike(value: str) -> None:
    """Text has one normal form in both, with marks in any order and characters of later Unicodes in it."""
    for name in ("exact", "casefold", "digits", "email"):
        mine, other = forms(normalizer(name, None), value)
        assert mine == other, name


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"\+?[0-9 ()-]{3,16}", fullmatch=True), st.sampled_from(["phone", "phone:GB", "phone:DE", "phone:US"]))
def test_reference_and_library_read_phone_numbers_alike(value: str, name: str) -> None:
    """A phone number is the same in both; what is none has no normal form in the reference, and is refused by the library."""
    try:
        mine, other = forms(normalizer(name, None), value)
    except ValueError:
        with pytest.raises(reference.NoNormalFormError):
            reference.normaliser(name, {})(value)
    else:
        assert mine == other


widths = st.one_of(
    st.integers(1, 10**99), st.integers(1, 100), st.decimals("1E-100", "9E99", allow_nan=False, allow_infinity=False)
)
bounds_of_numbers = st.one_of(
    st.just((None, None)),
    st.lists(st.integers() | st.decimals(-100, 100, places=3), min_size=2, max_size=2, unique=True).map(sorted),
)


@settings(max_examples=1500, deadline=None)
@given(widths, bounds_of_numbers, numbers)
def test_reference_and_library_put_numbers_into_the_same_buckets(width: Any, bounds: Any, value: Any) -> None:
    """A number of any type and size falls into the same bucket in both, or in both into none."""
    mine, other = forms(bucket(width, *bounds), value)
    assert mine == other


bounds_of_days = st.just((None, None)) | st.lists(st.dates(), min_size=2, max_size=2, unique=True).map(sorted)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(["month", "year"]), bounds_of_days, moments | st.dates())
def test_reference_and_library_put_days_into_the_same_buckets(unit: str, bounds: Any, value: date) -> None:
    """A date or a moment falls on the same day, and into the same bucket, in both, or in both into none."""
    for norm in (bucket(unit, *bounds), normalizer("date", None)):
        mine, other = forms(norm, value)
        assert mine == other, norm.id


def upper(value: Any) -> str | None:
    """An application's normaliser, which knows no empty text."""
    return str(value).upper() or None


#: id of a normaliser → its values
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "exact": scalars | st.sampled_from(Colour),
    "casefold": texts | texts.map(SecretStr),
    "digits": texts,
    "email": texts,
    "date": moments | st.dates(),
    "bucket:10": numbers,
    "bucket:0.5:-2:2": numbers,
    "bucket:year": moments | st.dates(),
    "upper-1": texts,
}


@st.composite
def indexes(draw: st.DrawFn) -> tuple[Definition, dict[str, Any]]:
    """An index of up to three parts, the last perhaps a list, and a value for each."""
    ids = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    many = draw(st.booleans())
    fields = {f"f{number}": draw(st.none() | KINDS[id]) for number, id in enumerate(ids)}
    if many:
        fields[f"f{len(ids) - 1}"] = draw(st.none() | st.lists(st.none() | KINDS[ids[-1]], max_size=4))
    norms = [normalizer(upper, id) if id == "upper-1" else normalizer_of(id) for id in ids]
    parts = tuple(Part(field, norm, many=many and field == max(fields)) for field, norm in zip(fields, norms, strict=True))
    name = draw(st.from_regex("[a-zé]{1,9}", fullmatch=True).filter(lambda each: each != "kid"))
    bits = 8 * draw(st.integers(1, 32))
    return Definition(name, parts, bits, unique=False, none=draw(st.booleans()), ranges=False), fields


@settings(max_examples=1000, deadline=None)
@given(indexes(), st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3, unique=True))
def test_reference_and_library_store_the_same_index_values(declared: tuple[Definition, dict[str, Any]], keys: list[bytes]) -> None:
    """Lists, None, compound indexes and several index keys: what `idx` has is the same, and as a value or an array in both."""
    definition, fields = declared
    index_keys = [IndexKey(f"x{number}", key) for number, key in enumerate(keys)]
    idx = Indexer([definition], KeyRing([DataKey("k1", bytes(32))], index_keys=index_keys), "customers").of(fields)
    functions = {"upper-1": upper}
    index = reference.Index("customers", definition.name, definition.normalizer_id, definition.bits, definition.none, functions)
    assert idx.get(definition.name) == reference.index_values(index, keys, [for_reference(each) for each in fields.values()])
