"""The guard: what a real mongod refuses from a plain client, and that it lets every sealed document pass."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import bson
import pytest
from bson import Binary, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from conftest import Driver
from every_type import EVERY_TYPE, PLACES, Colour, Flags, Level, Odd, Roots, placed
from pydantic import BaseModel, ByteSize, ConfigDict, Field, NatsDsn, RootModel, computed_field, create_model
from pymongo import InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure
from test_every_type import NEVER_QUERYABLE

from mongo_envelope import DocumentCodec, IntegrityError, KeyRing, Queryable, SchemaError, Sensitive, envelope
from mongo_envelope.blind import BlindIndex
from mongo_envelope.datakey import IndexKey
from mongo_envelope.guard import installed, merged, validator, without
from mongo_envelope.schema import Schema, is_exact

Db = Database[dict[str, Any]]

PLAIN = "plaintext of a customer"
REFUSED = 121  #: DocumentValidationFailure


class Place(BaseModel):
    city: str = "Trier"


class Customer(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable()] = "acme"
    rank: Annotated[int | None, Queryable()] = None
    place: Annotated[Place, Queryable(name="site")] = Place()
    email: Annotated[str, Sensitive(index=BlindIndex(name="by_mail"))] = "ada@example.com"
    aliases: Annotated[list[str], Sensitive(index=BlindIndex(name="by_alias"))] = ["countess"]
    home: Annotated[Place, Sensitive()] = Place()
    notes: str = ""


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    """With an index key, as blind indexes need."""
    return KeyRing.generate().with_index_key(IndexKey.generate())


@pytest.fixture(scope="module")
def codec(ring: KeyRing) -> DocumentCodec[Customer]:
    return DocumentCodec(Customer, keys=ring, context="customers")


@pytest.fixture
def guarded(database: Db, codec: DocumentCodec[Customer]) -> Any:
    """A collection with the guard, two sealed documents in it, and a plain client's view of it."""
    collection = database.create_collection("customers", validator=validator(codec.schema))
    collection.insert_many([codec.seal(Customer()), codec.seal(Customer())])
    return collection


def model_of(kind: Any, **more: Any) -> type[BaseModel]:
    config = ConfigDict(arbitrary_types_allowed=True)
    return create_model("Model", __config__=config, id=(int, ...), field=(Annotated[kind, Queryable()], ...), **more)


def raw_documents(collection: Any) -> list[bytes]:
    options = envelope.CODEC_OPTIONS.with_options(document_class=RawBSONDocument)
    return [bytes(each.raw) for each in collection.with_options(codec_options=options).find(sort=[("_id", 1)])]


def code_of(error: OperationFailure) -> Any:
    return error.details["writeErrors"][0]["code"] if isinstance(error, BulkWriteError) else error.code


# --- Plaintext, by every path: refused with the guard, and written without it ------------------------------------------


def fresh() -> dict[str, Any]:
    return {"_id": uuid4(), "email": PLAIN}


def jobs(collection: Any, *documents: dict[str, Any]) -> Any:
    """Another collection of the same database, without a guard, from which an aggregation writes."""
    collection.database.jobs.insert_many(documents)
    return collection.database.jobs


def first(collection: Any) -> dict[str, Any]:
    found: dict[str, Any] = collection.find_one()
    return found


def copied(collection: Any, stage: dict[str, Any], **changes: Any) -> Any:
    """A sealed document with some changes, written by the last stage of an aggregation."""
    source = jobs(collection, {**first(collection), **changes})
    return list(source.aggregate([stage]))


MERGE = {"into": "customers", "whenMatched": "merge"}
#: path → how a client takes it
PLAINTEXT: dict[str, Callable[[Any], Any]] = {
    "insert_one": lambda c: c.insert_one(fresh()),
    "insert_one of an empty document": lambda c: c.insert_one({}),
    "insert_one of a sealed one and a field more": lambda c: c.insert_one({**first(c), "_id": uuid4(), "email": PLAIN}),
    "insert_many": lambda c: c.insert_many([fresh(), fresh()]),
    "insert_many unordered": lambda c: c.insert_many([fresh(), fresh()], ordered=False),
    "update_one $set": lambda c: c.update_one({}, {"$set": {"email": PLAIN}}),
    "update_one $set nested": lambda c: c.update_one({}, {"$set": {"home.city": PLAIN}}),
    "update_one $set of an unknown name": lambda c: c.update_one({}, {"$set": {"unheard_of": PLAIN}}),
    "update_one $setOnInsert": lambda c: c.update_one({"_id": uuid4()}, {"$setOnInsert": {"email": PLAIN}}, upsert=True),
    "update_one $push": lambda c: c.update_one({}, {"$push": {"aliases": PLAIN}}),
    "update_one $addToSet": lambda c: c.update_one({}, {"$addToSet": {"aliases": PLAIN}}),
    "update_one $inc": lambda c: c.update_one({}, {"$inc": {"age": 1}}),
    "update_one $currentDate": lambda c: c.update_one({}, {"$currentDate": {"updated": True}}),
    "update_one $rename to a sensitive name": lambda c: c.update_one({}, {"$rename": {"tenant": "email"}}),
    "update_one $rename of an envelope field": lambda c: c.update_one({}, {"$rename": {"data": "tenant"}}),
    "update_one by pipeline": lambda c: c.update_one({}, [{"$set": {"email": PLAIN}}]),
    "update_one by pipeline, nested": lambda c: c.update_one({}, [{"$set": {"home.city": PLAIN}}]),
    "update_one by pipeline, replacing": lambda c: c.update_one({}, [{"$replaceWith": {"_id": "$_id", "email": PLAIN}}]),
    "update_one by pipeline, taking away": lambda c: c.update_one({}, [{"$unset": ["hmac", "iv"]}]),
    "update_one upsert": lambda c: c.update_one({"_id": uuid4()}, {"$set": {"email": PLAIN}}, upsert=True),
    "update_one upsert of the filter alone": lambda c: c.update_one({"email": PLAIN}, {"$set": {"rank": 1}}, upsert=True),
    "update_many $set": lambda c: c.update_many({}, {"$set": {"email": PLAIN}}),
    "update_many $unset": lambda c: c.update_many({}, {"$unset": {"data": 1}}),
    "replace_one": lambda c: c.replace_one({}, {"email": PLAIN}),
    "replace_one upsert": lambda c: c.replace_one({"_id": uuid4()}, {"email": PLAIN}, upsert=True),
    "find_one_and_update": lambda c: c.find_one_and_update({}, {"$set": {"email": PLAIN}}),
    "find_one_and_update upsert": lambda c: c.find_one_and_update({"_id": uuid4()}, {"$set": {"email": PLAIN}}, upsert=True),
    "find_one_and_update by pipeline": lambda c: c.find_one_and_update({}, [{"$set": {"email": PLAIN}}]),
    "find_one_and_replace": lambda c: c.find_one_and_replace({}, {"email": PLAIN}),
    "bulk_write InsertOne": lambda c: c.bulk_write([InsertOne(fresh())]),
    "bulk_write UpdateOne": lambda c: c.bulk_write([UpdateOne({}, {"$set": {"email": PLAIN}})]),
    "bulk_write UpdateOne upsert": lambda c: c.bulk_write([UpdateOne({"_id": 1}, {"$set": {"email": PLAIN}}, upsert=True)]),
    "bulk_write UpdateOne by pipeline": lambda c: c.bulk_write([UpdateOne({}, [{"$set": {"email": PLAIN}}])]),
    "bulk_write UpdateMany": lambda c: c.bulk_write([UpdateMany({}, {"$unset": {"hmac": 1}})]),
    "bulk_write ReplaceOne": lambda c: c.bulk_write([ReplaceOne({}, {"email": PLAIN})]),
    "$merge": lambda c: list(jobs(c, fresh()).aggregate([{"$merge": "customers"}])),
    "$merge into one that is there": lambda c: copied(c, {"$merge": MERGE}, email=PLAIN),
    "$merge replacing": lambda c: copied(c, {"$merge": {**MERGE, "whenMatched": "replace"}}, email=PLAIN),
    "$merge by pipeline": lambda c: copied(c, {"$merge": {**MERGE, "whenMatched": [{"$set": {"email": PLAIN}}]}}),
    "$out": lambda c: list(jobs(c, fresh()).aggregate([{"$out": "customers"}])),
    "$out of a sealed one and a field more": lambda c: copied(c, {"$out": "customers"}, email=PLAIN),
    "command insert": lambda c: refused_command(c, {"insert": "customers", "documents": [fresh()]}),
    "command update": lambda c: refused_command(
        c, {"update": "customers", "updates": [{"q": {}, "u": {"$set": {"email": PLAIN}}, "multi": True}]}
    ),
    **{
        f"$unset {name}": lambda c, name=name: c.update_one({}, {"$unset": {name: 1}})  # type: ignore[misc]  # a default binds it
        for name in ("data", "hmac", "iv", "kid", "v")
    },
    **{
        f"text into {name}": lambda c, name=name: c.update_one({}, {"$set": {name: PLAIN}})  # type: ignore[misc]  # likewise
        for name in ("data", "hmac", "iv", "kid", "v", "idx", "idx.kid", "idx.by_mail", "idx.by_alias", "idx.email", "rank", "site")
    },
    **{
        f"a list into {name}": lambda c, name=name: c.update_one({}, {"$set": {name: [PLAIN]}})  # type: ignore[misc]  # likewise
        for name in ("data", "hmac", "iv", "kid", "v", "idx", "idx.kid", "idx.by_mail", "tenant", "rank", "site")
    },
    "text pushed to an index": lambda c: c.update_one({}, {"$push": {"idx.by_alias": PLAIN}}),
    "an idx without kid": lambda c: c.update_one({}, {"$unset": {"idx.kid": 1}}),
    "an idx of no kid": lambda c: c.update_one({}, {"$set": {"idx.kid": []}}),
    "an id of another type": lambda c: c.insert_one({**first(c), "_id": PLAIN}),
}


def refused_command(collection: Any, command: dict[str, Any]) -> Any:
    """A command as it is sent, past the driver's methods, whose answer carries the error."""
    answer = collection.database.command(command, codec_options=envelope.CODEC_OPTIONS)
    if "writeErrors" in answer:
        raise BulkWriteError(answer)
    return answer


@pytest.mark.parametrize("path", PLAINTEXT)
def test_plaintext_is_refused_on_every_path(guarded: Any, path: str) -> None:
    """The server says that the document failed validation, and every stored document is what it was, byte for byte."""
    before = raw_documents(guarded)
    with pytest.raises(OperationFailure) as caught:
        PLAINTEXT[path](guarded)
    assert code_of(caught.value) == REFUSED
    assert raw_documents(guarded) == before
    assert guarded.options()["validator"] == validator(Schema.of(Customer))


@pytest.mark.parametrize("path", PLAINTEXT)
def test_without_the_guard_the_same_plaintext_is_written(guarded: Any, path: str) -> None:
    """The twin of the test above: it is the guard that refuses, and no slip in the command."""
    before = raw_documents(guarded)
    guarded.database.command("collMod", "customers", validator={})
    PLAINTEXT[path](guarded)
    assert raw_documents(guarded) != before


# --- Sealed documents: nothing stands in their way ---------------------------------------------------------------------

SEALED: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "insert_one": lambda c, one: c.insert_one(one),
    "insert_many": lambda c, one: c.insert_many([one]),
    "replace_one": lambda c, one: c.replace_one(*in_place_of_the_first(c, one)),
    "replace_one upsert": lambda c, one: c.replace_one({"_id": one["_id"]}, one, upsert=True),
    "find_one_and_replace": lambda c, one: c.find_one_and_replace(*in_place_of_the_first(c, one)),
    "find_one_and_replace upsert": lambda c, one: c.find_one_and_replace({"_id": one["_id"]}, one, upsert=True),
    "update_one upsert by pipeline": lambda c, one: c.update_one({"_id": one["_id"]}, [{"$replaceWith": one}], upsert=True),
    "bulk_write": lambda c, one: c.bulk_write([InsertOne(one), ReplaceOne(*in_place_of_the_first(c, one))]),
    "bulk_write upsert": lambda c, one: c.bulk_write([ReplaceOne({"_id": one["_id"]}, one, upsert=True)]),
    "$merge": lambda c, one: list(jobs(c, one).aggregate([{"$merge": "customers"}])),
    "$out": lambda c, one: list(jobs(c, one).aggregate([{"$out": "customers"}])),
}


def in_place_of_the_first(collection: Any, one: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    identity = first(collection)["_id"]
    return {"_id": identity}, {**one, "_id": identity}


@pytest.mark.parametrize("path", SEALED)
def test_sealed_documents_pass(guarded: Any, codec: DocumentCodec[Customer], path: str) -> None:
    """By whatever command they come."""
    before = raw_documents(guarded)
    SEALED[path](guarded, codec.seal(Customer(rank=2**40, notes="new")))
    assert raw_documents(guarded) != before


def test_the_guard_stays_when_out_replaces_the_collection(guarded: Any, codec: DocumentCodec[Customer]) -> None:
    """MongoDB makes the new collection with the options of the old one, the validator among them."""
    SEALED["$out"](guarded, codec.seal(Customer()))
    assert guarded.options()["validator"] == validator(codec.schema)
    with pytest.raises(OperationFailure):
        guarded.insert_one(fresh())


async def test_a_repository_works_behind_the_guard(driver: Driver, database: Db, ring: KeyRing) -> None:
    """Save, save again, overwrite, save many, delete: of both drivers."""
    database.create_collection("customers", validator=validator(Schema.of(Customer)))
    customers = driver.repository(Customer, keys=ring)
    ada = await customers.save(Customer())
    ada.rank = 5
    await customers.save(ada)
    await customers.save(Customer(id=ada.id), overwrite=True)
    await customers.save(Customer(), overwrite=True)
    await customers.save_many([Customer(), Customer(aliases=[]), Customer(aliases=["a", "b"])])
    assert await customers.delete(ada.id) is True
    assert database.customers.count_documents({}) == 4


def test_while_index_keys_are_changed(guarded: Any, ring: KeyRing) -> None:
    """A document with values under two index keys has a list of kids, and lists of values."""
    both = DocumentCodec(Customer, keys=ring.with_index_key(IndexKey.generate()), context="customers")
    sealed = both.seal(Customer())
    assert type(sealed["idx"]["kid"]) is type(sealed["idx"]["by_mail"]) is list
    guarded.insert_one(sealed)


@pytest.mark.parametrize("field", ["iv", "hmac"])
@pytest.mark.parametrize(
    "wrong", [b"", b"x" * 15, b"x" * 31, "x" * 16, "x" * 32, 5, None, {}, [b"x" * 16], [b"x" * 32], ...], ids=repr
)
def test_an_iv_and_a_tag_have_their_length(guarded: Any, field: str, wrong: Any) -> None:
    """Of whatever type it is, or if it is missing, it is a refusal like others, and no error of an expression."""
    document = {**first(guarded), "_id": uuid4(), field: wrong}
    if wrong is ...:
        del document[field]
    with pytest.raises(OperationFailure) as caught:
        guarded.insert_one(document)
    assert caught.value.code == REFUSED


@pytest.mark.parametrize("kid", ["", "a\n", "a b", "é", "x" * 65, ["a", "a"], ["a", "b\n"]], ids=ascii)
def test_a_kid_is_a_kid(guarded: Any, kid: Any) -> None:
    """In the envelope and in ``idx``: a text that could hold anything is none."""
    for change in ({"kid": kid}, {"idx.kid": kid}):
        with pytest.raises(OperationFailure, match="failed validation"):
            guarded.update_one({}, {"$set": change})


# --- Soundness: every document that a model can seal -------------------------------------------------------------------


def seal_all(database: Db, model: type[BaseModel], saved: list[BaseModel]) -> None:
    """Sealed by the codec, and put by a plain client into a collection with the guard of the model, one after the other."""
    codec = DocumentCodec(model, keys=KeyRing.generate(), context="every")
    database.drop_collection("every")
    database.create_collection("every", validator=validator(codec.schema))
    for one in saved:
        database.every.insert_one(RawBSONDocument(codec.seal_bson(one)))
        database.every.delete_many({})  # two values may be one _id


@pytest.mark.parametrize("name", [name for name in EVERY_TYPE if name not in NEVER_QUERYABLE])
def test_every_type_passes_the_guard_of_its_model(database: Db, name: str) -> None:
    """Whatever can stand in the clear, wherever it may stand, with values that are hard to keep."""
    kind, values = EVERY_TYPE[name]
    places = [placed(place, kind) for place in PLACES]
    fields: dict[str, Any] = {f"place_{number}": (Annotated[where, Queryable()], ...) for number, (where, _) in enumerate(places)}
    model = create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(int, ...), **fields)
    saved = [dict(zip(fields, (put(value) for _, put in places), strict=True)) for value in values]
    seal_all(database, model, [model.model_construct(id=number, **each) for number, each in enumerate(saved)])


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_every_type_passes_as_an_id(database: Db, name: str) -> None:
    """Where it can be one; what BSON rounds is not sealed, and what is an array is no ``_id`` to MongoDB."""
    kind, values = EVERY_TYPE[name]
    model = create_model("Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(kind, ...))
    with suppress(SchemaError):
        node = Schema.of(model).identity.node
        kept = [value for value in values if is_exact(value) or not node.rounds]
        kept = [value for value in kept if not isinstance(node.projected(value), list)]
        seal_all(database, model, [model.model_construct(id=value) for value in kept])


class Shouting(enum.StrEnum):
    loud = "A"


class Text(RootModel[str]):
    pass


class Day(RootModel[date]):
    pass


class Either(RootModel[dict[int, int] | str]):
    pass


#: name → (type, values, what the guard asks of it)
TYPES: dict[str, tuple[Any, list[Any], Any]] = {
    "int": (int, [1, 2**31], ["int", "long"]),
    "float": (float, [1.0, 1], "double"),
    "float or None": (float | None, [1.0, 1, None], ["double", "null"]),
    "text": (str, ["a"], "string"),
    "bytes": (bytes, [b"a"], "binData"),
    "UUID": (UUID, [UUID(int=1)], "binData"),
    "ObjectId": (ObjectId | None, [ObjectId(), None], ["null", "objectId"]),
    "date": (date, [date.min], "date"),
    "size": (ByteSize, [ByteSize(2**40)], ["int", "long"]),
    "path": (Path, [Path("a")], "string"),
    "url of several hosts": (NatsDsn, [NatsDsn("nats://a:1,b:2")], "string"),
    "enum of text": (Colour, list(Colour), "string"),
    "enum of text, a text itself": (Shouting | None, [Shouting.loud, None], ["null", "string"]),
    "enum of numbers": (Level, [Level.low], ["int", "long"]),
    "flag": (Flags, [Flags(0), Flags.a | Flags.b], ["int", "long"]),
    "enum of odd values": (Odd, list(Odd), "string"),
    "literal of numbers and None": (Literal[1, None], [1, None], ["int", "long", "null"]),
    "literal of members": (Literal[Level.low, Colour.red], [Level.low, Colour.red], ["int", "long", "string"]),
    "literal of bytes": (Literal[b"x"] | None, [b"x", None], ["binData", "null", "string"]),
    "literal or bytes": (Literal[b"x"] | bytes, [b"x", b"y"], ["binData", "string"]),  # noqa: PYI051 - to this package they are two
    "list": (list[int], [[], [1]], "array"),
    "dict": (dict[str, int], [{}, {"a": 1}], "object"),
    "dict by number": (dict[int, int], [{}, {1: 1}], "array"),
    "dict by number or None": (dict[int, int] | None, [{1: 1}, None], ["array", "null"]),
    "two dicts": (dict[int, int] | dict[str, int], [{1: 1}, {"a": 1}], ["array", "object"]),
    "dict of dates": (dict[str, date], [{"a": date.min}], ["array", "object"]),
    "model": (Place, [Place()], "object"),
    "model or dict": (Place | dict[int, int], [Place(), {1: 1}], ["array", "object"]),
    "root of text": (Text, [Text("a")], ["binData", "objectId", "string"]),
    "root of a list": (Roots, [Roots([b""])], "array"),
    "root of a date": (Day | None, [Day(date.min), None], None),
    "root of either": (Either, [Either({1: 1}), Either("a")], None),
    "several": (int | str | date | None, [1, "a", date.min, None], ["date", "int", "long", "null", "string"]),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_field_in_the_clear_has_the_types_of_its_projection(database: Db, name: str) -> None:
    """As narrow as the type says, nothing where it says nothing, and never too narrow for a value of it."""
    kind, values, expected = TYPES[name]
    model = model_of(kind)
    field = validator(Schema.of(model))["$jsonSchema"]["properties"]["field"]
    assert field == ({} if expected is None else {"bsonType": expected})
    seal_all(database, model, [model.model_construct(id=number, field=value) for number, value in enumerate(values)])


def test_a_computed_field_is_typed_too(database: Db) -> None:
    """By the type that it returns."""

    class Order(BaseModel):
        id: ObjectId | None = None
        net: float = 1.0

        @computed_field
        @property
        def gross(self) -> Annotated[float, Queryable()]:
            return self.net * 1.2

        model_config = ConfigDict(arbitrary_types_allowed=True)

    properties = validator(Schema.of(Order))["$jsonSchema"]["properties"]
    assert (properties["gross"], properties["_id"]) == ({"bsonType": "double"}, {"bsonType": "objectId"})
    seal_all(database, Order, [Order(), Order(id=ObjectId())])


# --- The text of it ----------------------------------------------------------------------------------------------------


def test_no_sensitive_name_is_in_it(codec: DocumentCodec[Customer]) -> None:
    """Nor a name inside a model: what is in the encrypted payload is not told by what is refused outside of it."""
    text = json.dumps(validator(codec.schema))
    assert codec.schema.sensitive == {"email", "aliases", "home", "notes"}
    assert [name for name in (*codec.schema.sensitive, "city", "place") if name in text] == []


def test_the_names_in_it_stand_in_every_document(codec: DocumentCodec[Customer]) -> None:
    """A blind index that has no name of its own has its field's, in the documents as in the guard."""
    schema, sealed = validator(codec.schema)["$jsonSchema"], codec.seal(Customer(rank=1))
    assert list(schema["properties"]) == ["_id", *sorted(sealed.keys() - {"_id"})]
    assert list(schema["properties"]["idx"]["properties"]) == ["kid", "by_alias", "by_mail"]


def test_names_that_are_odd(database: Db, ring: KeyRing) -> None:
    """Whatever may be a stored name, or the name of an index, may stand in a validator."""
    stored = ["a$b", "a b", "\u00e9", "__proto__", "bsonType", "1"]
    indexes = [BlindIndex(name=f"{name} index") for name in stored]
    fields: dict[str, Any] = {f"f{number}": (Annotated[int, Queryable(name=name)], 1) for number, name in enumerate(stored)}
    model = create_model("Model", id=(int, 1), text=(Annotated[str, Sensitive(index=indexes)], "a"), **fields)
    codec = DocumentCodec(model, keys=ring, context="odd")
    collection = database.create_collection("odd", validator=validator(codec.schema))
    sealed = codec.seal(model())
    collection.insert_one(sealed)
    inside = [{"idx": {**sealed["idx"], each.name: PLAIN}} for each in indexes]
    for change in [*({name: PLAIN} for name in stored), *inside]:
        with pytest.raises(OperationFailure, match="failed validation"):
            collection.insert_one({**sealed, "_id": 2, **change})


def test_it_is_the_same_every_time(guarded: Any) -> None:
    """To the byte, so that it can be compared; and so the server gives it back."""
    one, other = (bson.encode(validator(Schema.of(Customer))) for _ in range(2))
    assert one == other == bson.encode(guarded.options()["validator"])


def test_without_blind_indexes_there_is_no_idx(database: Db) -> None:
    """An ``idx`` in such a collection is refused as any other name."""
    model = model_of(int)
    assert "idx" not in validator(Schema.of(model))["$jsonSchema"]["properties"]
    codec = DocumentCodec(model, keys=KeyRing.generate(), context="every")
    collection = database.create_collection("every", validator=validator(codec.schema))
    with pytest.raises(OperationFailure, match="failed validation"):
        collection.insert_one({**codec.seal(model(id=1, field=1)), "idx": {"kid": "a"}})


# --- What it cannot refuse: found out when the document is opened -------------------------------------------------------

UNSEEN: dict[str, Callable[[Any], Any]] = {
    "another value of the right type": lambda c: c.update_one({}, {"$set": {"tenant": PLAIN}}),
    "a queryable field taken away": lambda c: c.update_one({}, {"$unset": {"tenant": 1}}),
    "a name more inside a model in the clear": lambda c: c.update_one({}, {"$set": {"site.email": PLAIN}}),
    "any bytes as data": lambda c: c.update_one({}, {"$set": {"data": PLAIN.encode()}}),
    "any bytes as an index value": lambda c: c.update_one({}, {"$set": {"idx.by_mail": PLAIN.encode()}}),
    "an iv of another subtype": lambda c: c.update_one({}, {"$set": {"iv": Binary(b"x" * 16, 4)}}),
    "bypassDocumentValidation": lambda c: c.update_one({}, {"$set": {"email": PLAIN}}, bypass_document_validation=True),
}


@pytest.mark.parametrize("path", UNSEEN)
def test_what_the_guard_cannot_see_the_tag_does(guarded: Any, codec: DocumentCodec[Customer], path: str) -> None:
    """It keeps plaintext out, by mistake; edits and forgeries are found on opening, as without a guard."""
    edited = first(guarded)["_id"]
    UNSEEN[path](guarded.with_options(codec_options=envelope.CODEC_OPTIONS))
    with pytest.raises(IntegrityError):
        codec.open(guarded.find_one({"_id": edited}))


# --- Beside another validator ------------------------------------------------------------------------------------------

OURS = validator(Schema.of(Customer))
OLDER = {"$jsonSchema": {"title": "mongo_envelope guard v0", "bsonType": "object"}, "$expr": {"$eq": ["$v", 0]}}
THEIRS: dict[str, Any] = {
    "query": {"rank": {"$gte": 0}},
    "schema": {"$jsonSchema": {"required": ["tenant"], "title": "tenants"}},
    "expression": {"$expr": {"$eq": ["$v", 1]}},
    "a schema without a title": {"$jsonSchema": {"required": ["tenant"]}},
    "and": {"$and": [{"rank": {"$gte": 0}}, {"tenant": {"$exists": True}}]},
    "and of one": {"$and": [{"rank": {"$gte": 0}}]},
    "and with an empty one": {"$and": [{}, {"rank": {"$gte": 0}}]},
    "and beside others": {"$and": [{"rank": {"$gte": 0}}], "tenant": "acme"},
    "or": {"$or": [{"rank": {"$gte": 0}}, {"tenant": "acme"}]},
}


@pytest.mark.parametrize("nothing", [None, {}])
def test_where_there_was_none(nothing: Any) -> None:
    """Ours stands alone, and nothing is left without it."""
    assert merged(nothing, OURS) == OURS
    assert without(merged(nothing, OURS)) is without(nothing) is without(OLDER) is None
    assert merged(OLDER, OURS) == merged(OURS, OURS) == OURS
    assert not installed(nothing, OURS)
    assert installed(OURS, OURS)
    assert not installed(OLDER, OURS)


@pytest.mark.parametrize("theirs", THEIRS.values(), ids=THEIRS)
def test_theirs_stays_as_it_is(theirs: dict[str, Any]) -> None:
    """Ours is put beside it, found there, replaced there and taken away again."""
    both = merged(theirs, OURS)
    assert both == {"$and": [theirs, OURS]}
    assert merged(merged(theirs, OLDER), OURS) == merged(both, OURS) == both
    assert without(both) == without(merged(theirs, OLDER)) == without(theirs) == theirs
    assert installed(both, OURS)
    assert not installed(theirs, OURS)
    assert not installed(merged(theirs, OLDER), OURS)


@pytest.mark.parametrize("ours", [OURS, OLDER], ids=["of today", "of an earlier version"])
def test_put_together_by_hand(ours: dict[str, Any]) -> None:
    """Ours is found among several, in an ``$and`` in an ``$and``, and where theirs was written into it."""
    several = {"$and": [{"rank": 1}, ours, {"tenant": "acme"}]}
    assert without(several) == {"$and": [{"rank": 1}, {"tenant": "acme"}]}
    assert without({"$and": [several, {"v": 1}]}) == {"$and": [without(several), {"v": 1}]}
    assert without({"$and": [ours, ours]}) is None
    assert without({"$and": [ours], "rank": 1}) == {"rank": 1}
    assert without({"$and": [{}, ours]}) is None
    for each in (several, {"$and": [several, {"v": 1}]}):
        assert merged(merged(each, OLDER), OURS) == merged(each, OURS)
        assert installed(each, ours)
    assert without({**OURS, "rank": 1}) == {"rank": 1}
    assert installed({**OURS, "rank": 1}, OURS)
    theirs = {"$expr": {"$eq": ["$rank", 1]}, "rank": 1}
    assert without({"$jsonSchema": ours["$jsonSchema"], **theirs}) == theirs


def test_a_guard_of_another_model_is_not_installed() -> None:
    """A field more, and it is another one; that BSON has several kinds of whole numbers makes no difference."""
    assert not installed(OURS, validator(Schema.of(model_of(int))))
    schema = OURS["$jsonSchema"]
    version = {"bsonType": "int", "enum": [Int64(1)]}
    assert installed({**OURS, "$jsonSchema": {**schema, "properties": {**schema["properties"], "v": version}}}, OURS)


@pytest.mark.parametrize("theirs", [each for each in THEIRS.values() if "schema" not in each], ids=THEIRS)
def test_the_server_holds_both(database: Db, codec: DocumentCodec[Customer], theirs: dict[str, Any]) -> None:
    """It takes what `merged` makes, gives it back as it was, and refuses what either of the two refuses."""
    collection = database.create_collection("customers", validator=merged(theirs, OURS))
    assert installed(collection.options()["validator"], OURS)
    collection.insert_one(codec.seal(Customer(rank=1)))
    with pytest.raises(OperationFailure, match="failed validation"):
        collection.update_one({}, {"$set": {"email": PLAIN}})
    database.command("collMod", "customers", validator=without(collection.options()["validator"]) or {})
    assert collection.options()["validator"] == theirs
    collection.update_one({}, {"$set": {"email": PLAIN}})
