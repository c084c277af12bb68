"""Pipelines over sealed documents: the same answer as over documents in the clear, or a refusal that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from bson import Decimal128
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from mongo_envelope import KeyRing, Queryable, QueryError, Repository, Sensitive, envelope
from mongo_envelope.pipeline import Compiled, compile_pipeline
from mongo_envelope.query import compile_filter
from mongo_envelope.schema import Schema

Pipeline = list[dict[str, Any]]
NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)


class Address(BaseModel):
    city: str
    code: int = 0


class Line(BaseModel):
    sku: str
    pieces: int


class Order(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(name="t")]
    rank: Annotated[int, Queryable()]
    price: Annotated[Decimal, Queryable(name="p")] = Decimal("0.5")
    at: Annotated[datetime, Queryable(name="when")] = NOON
    tags: Annotated[list[str], Queryable(name="g")] = []
    address: Annotated[Address, Queryable(name="adr")]
    lines: Annotated[list[Line], Queryable(name="l")] = []
    labels: Annotated[dict[str, int], Queryable()] = {}
    note: Annotated[str | None, Queryable(name="n")] = None
    email: Annotated[str, Sensitive()] = "ada@example.com"
    contact: Address = Address(city="secret")
    data: str = "a name that is the envelope's, too"


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    key: Annotated[UUID, Field(default_factory=uuid4, alias="_id")]
    tenant: Annotated[str, Queryable()] = "acme"


SCHEMA = Schema.of(Order)
LOOSE = Schema.of(Loose)
ORDERS = [
    Order(
        id=UUID(int=number),
        tenant=["acme", "bolt", "corp"][number % 3],
        rank=number % 5,
        price=Decimal(number) / 4,
        at=NOON + timedelta(days=number * 20),
        tags=["a", "b", "c"][: number % 4],
        address=Address(city="Ulm" if number % 2 else "Bonn", code=number),
        lines=[Line(sku=f"s{line}", pieces=number + line) for line in range(number % 3)],
        labels={"x": number} if number % 2 else {"y": 1},
        note=None if number % 3 else f"note {number}",
        email=f"{number}@example.com",
    )
    for number in range(1, 13)
]


def compiled(pipeline: Any, schema: Schema[Any] = SCHEMA) -> Compiled:
    return compile_pipeline(schema, pipeline, lambda given: compile_filter(schema, given))


@dataclass
class Twins:
    """The same orders twice: sealed, and with every field in the clear under its name in the model."""

    sealed: Collection[dict[str, Any]]
    clear: Collection[dict[str, Any]]

    def in_the_clear(self, pipeline: Pipeline) -> list[dict[str, Any]]:
        return list(self.clear.aggregate(pipeline))

    def answer(self, pipeline: Pipeline) -> list[dict[str, Any]]:
        found = compiled(pipeline)
        documents = list(self.sealed.aggregate(found.stages))
        assert all(("hmac" in each) is found.whole for each in documents)
        if found.whole:
            return [twin_of(next(order for order in ORDERS if order.id == each["_id"])) for each in documents]
        return documents


def twin_of(order: Order) -> dict[str, Any]:
    metadata, _ = SCHEMA.split(order)
    clear = {"_id" if field.stored == "_id" else field.name: metadata[field.stored] for field in SCHEMA.stored}
    document = clear | {"email": order.email, "contact": order.contact.model_dump(), "data": order.data}
    return {"value": envelope.as_stored(document)}["value"]


@pytest.fixture(scope="module")
def twins(client: MongoClient[dict[str, Any]], keys: KeyRing) -> Iterator[Twins]:
    database = client[f"test-pipeline-{uuid4().hex[:12]}"]
    options = {"codec_options": envelope.CODEC_OPTIONS}
    Repository(Order, database.sealed, keys=keys).save_many(ORDERS)
    database.get_collection("clear", **options).insert_many([twin_of(order) for order in ORDERS])
    yield Twins(database.get_collection("sealed", **options), database.get_collection("clear", **options))
    client.drop_database(database)


BY_ID = {"$sort": {"_id": 1}}
#: Each one sorted at the end, or giving one document, so that its order is that of the answer.
TWIN: list[Pipeline] = [
    [],
    [{"$match": {"tenant": "acme"}}, {"$sort": {"rank": -1, "_id": 1}}, {"$skip": 1}, {"$limit": 2}],
    [{"$match": {"tenant": "acme"}}, {"$count": "data"}],
    [{"$match": {"tenant": "nobody"}}, {"$count": "n"}],
    [{"$sort": {"at": 1}}, {"$group": {"_id": "$tenant", "first": {"$first": "$rank"}, "all": {"$push": "$at"}}}, BY_ID],
    [{"$group": {"_id": "$tenant", "sum": {"$sum": "$price"}, "n": {"$count": {}}, "max": {"$max": "$note"}}}, BY_ID],
    [{"$group": {"_id": {"where": "$address.city", "who": "$tenant"}, "n": {"$sum": 1}}}, BY_ID],
    [{"$group": {"_id": {"a": "$address"}, "email": {"$sum": 1}}}, {"$match": {"email": 1}}, BY_ID],
    [
        {"$group": {"_id": {"year": {"$year": "$at"}}, "best": {"$top": {"sortBy": {"price": -1}, "output": "$address.city"}}}},
        {"$project": {"_id": 0, "year": "$_id.year", "best": 1}},
        {"$sort": {"year": -1}},
    ],
    [{"$group": {"_id": None, "avg": {"$avg": {"$size": "$tags"}}, "data": {"$min": "$rank"}}}],
    [{"$group": {"_id": "$tenant", "n": {"$sum": {"$sum": "$lines.pieces"}}}}, {"$match": {"n": {"$gt": 20}}}, BY_ID],
    [{"$group": {"_id": "$tenant", "in": {"$addToSet": "$address.city"}}}, {"$set": {"in": {"$size": "$in"}}}, BY_ID],
    [{"$sortByCount": "$tenant"}, BY_ID],
    [{"$sortByCount": {"$size": "$tags"}}, BY_ID],
    [{"$bucket": {"groupBy": "$rank", "boundaries": [0, 2, 4], "default": "more"}}, BY_ID],
    [{"$bucket": {"groupBy": "$price", "boundaries": [0, 2, 9], "output": {"who": {"$push": "$tenant"}}}}, BY_ID],
    [{"$bucketAuto": {"groupBy": "$rank", "buckets": 3, "output": {"s": {"$sum": "$rank"}}}}, {"$match": {"_id.min": 0}}],
    [BY_ID, {"$project": {"tenant": 1, "rank": True, "when": "$at", "t": "$rank"}}],
    [BY_ID, {"$project": {"_id": 0, "tags": 1.5, "tenant": {"$toUpper": "$tenant"}}}],
    [BY_ID, {"$project": {"address.city": 1, "lines.sku": 1}}],
    [BY_ID, {"$project": {"address": {"city": 1, "twice": {"$multiply": ["$address.code", 2]}}, "lines": {"who": "$tenant"}}}],
    [BY_ID, {"$project": {"city": "$address.city", "skus": "$lines.sku", "x": "$labels.x", "five": {"$literal": 5}, "c": "text"}}],
    [BY_ID, {"$project": {"note": {"$ifNull": ["$note", "$$REMOVE"]}}}, {"$match": {"note": {"$exists": True}}}],
    [
        BY_ID,
        {"$project": {"n": {"$map": {"input": "$lines", "as": "one", "in": {"$concat": ["$$one.sku", "$tenant"]}}}, "tags": 1}},
        {"$project": {"tags": 0}},
        {"$match": {"n": {"$elemMatch": {"$regex": "acme$"}}}},
    ],
    [BY_ID, {"$unwind": "$tags"}, {"$group": {"_id": "$tags", "who": {"$push": "$tenant"}}}, BY_ID],
    [
        BY_ID,
        {"$unwind": {"path": "$lines", "includeArrayIndex": "at", "preserveNullAndEmptyArrays": True}},
        {"$match": {"lines.pieces": {"$not": {"$lt": 5}}, "$expr": {"$gte": ["$rank", "$at"]}}},
        {"$project": {"_id": 0, "lines": 1, "at": 1, "rank": 1, "labels": 1}},
    ],
    [
        BY_ID,
        {"$set": {"total": {"$multiply": ["$price", {"$sum": "$lines.pieces"}]}, "tenant": {"$toLower": "$tenant"}}},
        {"$addFields": {"address.both": {"$concat": ["$address.city", "$tenant"]}, "lines": {"hmac": 5}}},
        {"$unset": ["rank", "address.code"]},
        {"$project": {"tenant": 1, "total": 1, "address": 1, "lines": 1}},
    ],
    [
        BY_ID,
        {"$set": {"data_": 1, "t": "$tenant"}},
        {"$sort": {"rank": 1, "_id": -1}},
        {"$limit": 3},
        {"$project": {"t": 1, "data_": 1}},
    ],
    [
        {"$match": {"rank": {"$gt": 0}}},
        {
            "$facet": {
                "tenants": [{"$sortByCount": "$tenant"}, BY_ID],
                "cities": [BY_ID, {"$project": {"_id": 0, "address": {"city": 1}}}, {"$limit": 2}],
                "tags": [{"$match": {"tags": "c"}}, {"$unwind": "$tags"}, {"$count": "n"}],
            }
        },
        {"$project": {"tenants": 1, "cities": 1, "n": {"$arrayElemAt": ["$tags.n", 0]}}},
    ],
    [BY_ID, {"$set": {"n": 1}}, {"$facet": {"a": [{"$project": {"n": 1, "tenant": 1}}], "b": [{"$count": "n"}]}}],
    [{"$group": {"_id": "$tenant"}}, {"$facet": {"all": [BY_ID]}}],
    [BY_ID, {"$set": {"rank": {"x": "$tenant"}}}, {"$project": {"y": "$rank.x"}}],
    [BY_ID, {"$project": {"rank": {"$literal": {"x": 1}}}}, {"$project": {"y": "$rank.x"}}],
    [BY_ID, {"$project": {"address.code": 1, "rank": {"$literal": {"x": 1}}}}, {"$match": {"rank.x": 1, "address.code": 9}}],
    [BY_ID, {"$project": {"f": {"$getField": "tenant"}, "g": {"$getField": {"field": "city", "input": "$address"}}}}],
    [BY_ID, {"$match": {"$or": [{"tags": "a"}, {"address.city": "Ulm"}]}}, {"$project": {"tags": 1, "address": 1}}],
    [
        {"$project": {"_id": 0, "a": "$rank", "b": "$tenant"}},
        {"$match": {"$or": [{"a": {"$in": [1, 2]}}, {"b": {"$regex": "^A", "$options": "i"}}]}},
        {"$sort": {"b": 1, "a": -1}},
        {"$group": {"_id": "$b", "a": {"$push": "$a"}}},
        {"$set": {"_id.x": 1}},
        {"$sort": {"_id.x": 1, "a": 1}},
    ],
]


@pytest.mark.parametrize("pipeline", TWIN, ids=lambda pipeline: " ".join(str(*stage) for stage in pipeline))
def test_a_pipeline_answers_as_if_every_field_stood_in_the_clear(twins: Twins, pipeline: Pipeline) -> None:
    """The same documents, values and order, from the same pipeline over the same orders, unencrypted."""
    answer = twins.answer(pipeline)
    assert answer == twins.in_the_clear(pipeline)


@pytest.mark.parametrize("pipeline", TWIN[1:], ids=lambda pipeline: " ".join(str(*stage) for stage in pipeline))
def test_what_is_given_is_left_as_it_is(pipeline: Pipeline) -> None:
    """Compiling twice gives the same: nothing of the caller's is changed."""
    before = repr(pipeline)
    first = compiled(pipeline)
    assert compiled(pipeline) == first
    assert repr(pipeline) == before


def test_a_sample_and_the_models_own_names(twins: Twins) -> None:
    """A sample is of whole documents; ``id`` is understood, and comes out as ``_id``."""
    found = compiled([{"$sample": {"size": 3}}, {"$sort": {"id": 1}}])
    assert found.whole
    assert len(list(twins.sealed.aggregate(found.stages))) == 3
    sorted_by_id = [{"$match": {"id": {"$lte": UUID(int=2)}}}, {"$sort": {"id": -1}}]
    assert [each["_id"].int for each in twins.answer([*sorted_by_id, {"$project": {"id": 1}}])] == [2, 1]
    assert twins.answer([*sorted_by_id, {"$limit": 1}, {"$project": {"id": 0, "tenant": 1}}]) == [{"tenant": "corp"}]
    assert twins.answer([{"$group": {"_id": None, "n": {"$max": "$id"}}}]) == [{"_id": None, "n": UUID(int=12)}]


def test_stages_that_need_no_names_leave_documents_whole() -> None:
    """The caller opens them, as those that a find gives."""
    assert compiled([]) == Compiled([], whole=True)
    assert compiled(({"$match": {"tenant": "a"}}, {"$sort": {"tenant": 1, "rank": -1}}, {"$skip": 0}, {"$limit": 1})) == Compiled(
        [{"$match": {"t": "a"}}, {"$sort": {"t": 1, "rank": -1}}, {"$skip": 0}, {"$limit": 1}], whole=True
    )


def test_a_group_reads_the_stored_names_so_that_it_can_use_an_index() -> None:
    """No stage is put before it; before $unwind and $set one is, and takes the payload away."""
    group = {"_id": "$tenant", "n": {"$sum": "$rank"}}
    assert compiled([{"$group": group}]) == Compiled([{"$group": {"_id": "$t", "n": {"$sum": "$rank"}}}], whole=False)
    first = compiled([{"$unwind": "$tags"}, {"$count": "n"}]).stages[0]
    assert first["$project"]["tenant"] == "$t"
    assert first["$project"].keys() == {"_id", *SCHEMA.names} - {"id"}


GROUP: Pipeline = [{"$group": {"_id": {"city": "$address.city"}, "total": {"$sum": "$rank"}}}]
SET: Pipeline = [{"$set": {"x": 1}}]
END: Pipeline = [{"$project": {"x": 1}}]
SENSITIVE = r"Order.email is sensitive.*Mark it Queryable\(\)"

NOT_SERVED = """
    $geoNear $search $searchMeta $vectorSearch $collStats $indexStats $changeStream $densify $fill $setWindowFields $documents
    $currentOp $listSessions $planCacheStats $querySettings
"""

REFUSED: list[tuple[Any, str]] = [
    # the pipeline
    ({"$match": {}}, "a pipeline is a list of stages, not a dict"),
    ("$match", "a pipeline is a list of stages, not a str"),
    ([{}], "a stage is a dict with one name"),
    ([{"$limit": 1, "$skip": 1}], "a stage is a dict with one name"),
    (["$count"], "a stage is a dict with one name"),
    ([{5: 1}], "names are text, and this is a int"),
    # stages
    ([{"$lookup": {}}], r"\$lookup is not served: it reads another collection"),
    ([{"$graphLookup": {}}], r"\$graphLookup is not served: it reads another collection"),
    ([{"$unionWith": "x"}], r"\$unionWith is not served: it reads another collection"),
    ([{"$out": "x"}], r"\$out is not served: it would write past the repository"),
    ([{"$merge": "x"}], r"\$merge is not served: it would write past the repository"),
    ([{"$replaceRoot": {"newRoot": "$address"}}], r"\$replaceRoot is not served.*with \$project"),
    ([{"$replaceWith": "$address"}], r"\$replaceWith is not served.*with \$project"),
    ([{"$redact": "$$KEEP"}], r"\$redact is not served: it decides by the whole document"),
    *(([{name: {}}], rf"\{name} is not a stage that is served") for name in NOT_SERVED.split()),
    ([{"$mach": {}}], r"\$mach is not a stage that is served. Did you mean \$match\?"),
    ([{"match": {}}], r"match is not a stage that is served. Did you mean .*\$match"),
    ([{"$x": {}}], r"Served: \$addFields, .*\$unwind"),
    # sensitive and unknown fields, stage by stage
    ([{"$match": {"email": "x"}}], r"\$match: Order.email is sensitive"),
    ([{"$match": {"tennant": "x"}}], r"\$match: Order has no field 'tennant'. Did you mean tenant\?"),
    ([{"$match": {"hmac": "x"}}], r"\$match: Order has no field 'hmac'"),
    ([{"$match": {"$where": "1"}}], r"\$match: \$where"),
    ([{"$sort": {"email": 1}}], r"\$sort: Order.email is sensitive"),
    ([{"$sort": {"ranck": 1}}], r"\$sort: .*Did you mean rank\?"),
    ([{"$group": {"_id": "$email"}}], r"\$group: " + SENSITIVE),
    ([{"$group": {"_id": None, "x": {"$push": "$contact.city"}}}], r"\$group: Order.contact is sensitive"),
    ([{"$group": {"_id": None, "x": {"$push": "$data"}}}], r"\$group: Order.data is sensitive"),
    ([{"$group": {"_id": "$hmac"}}], r"\$group: Order has no field 'hmac'"),
    ([{"$group": {"_id": "$adress"}}], r"\$group: .*Did you mean address\?"),
    ([{"$group": {"_id": "$address.town"}}], r"\$group: address: Address has no field 'town'"),
    ([{"$group": {"_id": "$rank.x"}}], "nothing stands beneath a int"),
    ([{"$group": {"_id": "$"}}], r"\$group: Order has no field ''"),
    ([{"$group": {"_id": "$$ROOT"}}], r"\$group: \$\$ROOT is the whole document"),
    ([{"$sortByCount": "$email"}], r"\$sortByCount: " + SENSITIVE),
    ([{"$bucket": {"groupBy": "$email", "boundaries": [1, 2]}}], r"\$bucket: " + SENSITIVE),
    ([{"$bucketAuto": {"groupBy": "$email", "buckets": 2}}], r"\$bucketAuto: " + SENSITIVE),
    ([{"$bucket": {"groupBy": "$rank", "boundaries": [1], "output": {"x": {"$max": "$email"}}}}], r"\$bucket: " + SENSITIVE),
    ([{"$unwind": "$email"}], r"\$unwind: " + SENSITIVE),
    ([{"$unwind": "$tagz"}], r"\$unwind: .*Did you mean tags\?"),
    ([{"$project": {"email": 1}}], r"\$project: " + SENSITIVE),
    ([{"$project": {"contact.city": 1}}], r"\$project: Order.contact is sensitive"),
    ([{"$project": {"x": {"$concat": ["$email"]}}}], r"\$project: " + SENSITIVE),
    ([{"$project": {"x": {"y": "$email"}}}], r"\$project: " + SENSITIVE),
    ([{"$project": {"iv": 1}}], "Order has no field 'iv'"),
    ([{"$project": {"address.town": 1}}], "Address has no field 'town'"),
    ([{"$project": {"address": {"town": 1}}}], "Address has no field 'town'"),
    ([{"$set": {"x": "$email"}}], r"\$set: " + SENSITIVE),
    ([{"$addFields": {"x": "$iv"}}], r"\$addFields: .*has no field 'iv'"),
    ([{"$unset": "email"}], r"\$unset: " + SENSITIVE),
    ([{"$unset": ["hmac"]}], "has no field 'hmac'"),
    ([{"$facet": {"a": [{"$count": "n"}], "b": [{"$sortByCount": "$email"}]}}], r"\$facet: b: \$sortByCount: " + SENSITIVE),
    ([*SET, {"$match": {"email": 1}}], r"\$match: " + SENSITIVE),
    ([*SET, {"$match": {"address.town": 1}}], "Address has no field 'town'"),
    ([*SET, {"$sort": {"email": 1}}], r"\$sort: " + SENSITIVE),
    ([*SET, {"$group": {"_id": "$t"}}], "t is called tenant here"),
    ([*SET, {"$group": {"_id": "$id"}}], "id is called _id here"),
    # stored names, which nobody has in the clear
    ([{"$group": {"_id": "$t"}}], r"\$group: t is called tenant here"),
    ([{"$sort": {"adr.city": 1}}], r"\$sort: adr is called address here"),
    ([{"$project": {"t": 1}}], r"\$project: t is called tenant here"),
    ([{"$project": {"adr.city": 1}}], r"\$project: adr is called address here"),
    ([{"$unwind": "$g"}], r"\$unwind: g is called tags here"),
    # a name that in the clear would be taken
    ([{"$set": {"email": 1}}, *END], r"\$set: Order.email is sensitive.*another name"),
    ([{"$set": {"contact.x": 1}}, *END], r"\$set: Order.contact is sensitive.*another name"),
    ([{"$set": {"contact": {"x": 1}}}, *END], r"\$set: Order.contact is sensitive.*another name"),
    ([{"$project": {"contact": {"x": "$tenant"}}}], "Order.contact is sensitive.*another name"),
    ([{"$project": {"email": "$tenant"}}], "Order.email is sensitive.*another name"),
    ([{"$unwind": {"path": "$tags", "includeArrayIndex": "contact.x"}}], r"\$unwind: Order.contact is sensitive.*another name"),
    # how it ends
    (
        [{"$set": {"x": 1}}],
        r'the pipeline ends with documents of which only a part.*\{"\$project": \{"_id": 1, "tenant": 1, .*"x": 1',
    ),
    ([{"$unwind": "$tags"}, {"$sort": {"tags": 1}}, {"$limit": 3}], "the pipeline ends with documents of which only a part"),
    ([{"$unset": "rank"}], "the pipeline ends with documents of which only a part"),
    ([{"$facet": {"a": []}}], r"\$facet: a: the pipeline ends with documents of which only a part"),
    ([{"$facet": {"a": [{"$match": {}}]}}], r"\$facet: a: the pipeline ends"),
    ([{"$facet": {"a": [{"$unwind": "$tags"}]}}], r"\$facet: a: the pipeline ends"),
    ([*SET, {"$facet": {"a": []}}], r"\$facet: a: the pipeline ends"),
    ([{"$project": {"email": 0}}], r"\$project: what is left out is said.*Name that"),
    ([{"$project": {"_id": 0}}], r"\$project: what is left out is said"),
    ([{"$project": {"id": False}}], r"\$project: what is left out is said"),
    ([*SET, {"$project": {"x": 0}}], r"\$project: what is left out is said"),
    # names of the pipeline's own
    (
        [*GROUP, {"$match": {"tenant": 1}}],
        r"\$match: what comes out of the stage before has no field 'tenant'. Its names: _id, total",
    ),
    ([*GROUP, {"$match": {"totl": 1}}], r"\$match: .*Did you mean total\?"),
    ([*GROUP, {"$match": {"$expr": {"$gt": ["$totl", 1]}}}], r"\$match: .*Did you mean total\?"),
    ([*GROUP, {"$sort": {"totl": 1}}], r"\$sort: .*Did you mean total\?"),
    ([*GROUP, {"$project": {"totl": 1}}], r"\$project: .*Did you mean total\?"),
    ([*GROUP, {"$project": {"totl": 0}}], r"\$project: .*Did you mean total\?"),
    ([*GROUP, {"$project": {"a": {"b": 1}}}], r"\$project: .*has no field 'a'"),
    ([*GROUP, {"$sort": {"_id.citi": 1}}], r"\$sort: _id has no field 'citi'. Did you mean city\?"),
    ([*GROUP, {"$project": {"x": "$_id.year"}}], r"\$project: _id has no field 'year'. It has city"),
    ([*GROUP, {"$match": {"total..x": 1}}], "goes on with what is no name"),
    ([*GROUP, {"$match": {"total.$x": 1}}], "goes on with what is no name"),
    ([*GROUP, {"$unset": "_id"}, {"$sort": {"_id": 1}}], "has no field '_id'"),
    ([*GROUP, {"$project": {"_id": 0}}, {"$sort": {"_id": 1}}], "has no field '_id'"),
    ([*GROUP, {"$project": {"total": 1, "_id": 0}}, {"$project": {"x": "$_id"}}], "has no field '_id'"),
    ([*GROUP, {"$count": "n"}, {"$project": {"total": 1}}], "has no field 'total'"),
    ([*GROUP, {"$project": {"total": 0, "_id": 0}}, {"$sort": {"x": 1}}], "It has no names"),
    ([*GROUP, {"$facet": {"a": SET, "b": [{"$sort": {"x": 1}}]}}], r"\$facet: b: \$sort: .*has no field 'x'"),
    # filters of the pipeline's own
    ([*GROUP, {"$match": []}], "takes a filter, a dict"),
    ([*GROUP, {"$match": {"$where": "1"}}], r"\$where is not served at the top of a filter"),
    ([*GROUP, {"$match": {"$text": {"$search": "x"}}}], r"\$text is not served at the top"),
    ([*GROUP, {"$match": {"$jsonSchema": {}}}], r"\$jsonSchema is not served at the top"),
    ([*GROUP, {"$match": {"$and": []}}], r"\$and takes a list of filters"),
    ([*GROUP, {"$match": {"$or": [5]}}], "a filter is a dict"),
    ([*GROUP, {"$match": {5: 5}}], "names are text"),
    ([*GROUP, {"$match": {"total": {"$gtt": 5}}}], r"total: \$gtt is not served in a filter. Did you mean \$gt"),
    ([*GROUP, {"$match": {"total": {"$not": {"$near": 5}}}}], r"total: \$near is not served in a filter"),
    ([*GROUP, {"$match": {"total": {"$elemMatch": {"$where": "1"}}}}], r"\$where is not served in a filter"),
    ([*GROUP, {"$match": {"total": {"$elemMatch": {"$or": [{"$where": "1"}]}}}}], r"\$where is not served at the top"),
    ([*GROUP, {"$match": {"total": {"$elemMatch": {"x": {"$where": "1"}}}}}], r"\$where is not served in a filter"),
    ([*GROUP, {"$match": {"total": Decimal(5)}}], "total: a value that BSON cannot hold"),
    ([*GROUP, {"$match": {"total": {"$in": [date(2024, 1, 1)]}}}], "total: a value that BSON cannot hold"),
    # what stages take
    ([{"$match": "x"}], "takes a filter, a dict of names and conditions, not a str"),
    ([{"$sort": "tenant"}], r"\$sort: takes a dict"),
    ([{"$sort": {}}], r"\$sort: takes a dict"),
    ([{"$sort": {"tenant": {"$meta": "textScore"}}}], "a direction is 1 or -1"),
    ([*GROUP, {"$sort": {"total": True}}], "a direction is 1 or -1"),
    ([*GROUP, {"$sort": {5: 1}}], "names are text"),
    ([{"$skip": -1}], r"\$skip: takes an int, 0 or more"),
    ([{"$limit": 0}], r"\$limit: takes an int, 1 or more"),
    ([{"$limit": True}], "takes an int"),
    ([{"$limit": 1 << 63}], "takes an int"),
    ([{"$sample": 5}], r"\$sample: takes a dict of size"),
    ([{"$sample": {"size": "x"}}], "takes an int"),
    ([{"$count": "a.b"}], r"\$count: a name that comes out is text"),
    ([{"$count": ""}], r"\$count: a name that comes out is text"),
    ([{"$count": 5}], r"\$count: a name that comes out is text"),
    ([{"$sortByCount": "tenant"}], r'takes a field as "\$name"'),
    ([{"$group": {"n": {"$sum": 1}}}], r"\$group: takes a dict with _id"),
    ([{"$group": {"_id": None, "n": 1}}], r"\$group: n: takes an accumulator"),
    ([{"$group": {"_id": None, "n": {"a": {"$sum": 1}}}}], r"\$group: n: takes an accumulator"),
    ([{"$group": {"_id": None, "n": {"$sum": 1, "$max": 1}}}], r"\$sum stands beside"),
    ([{"$group": {"_id": None, "n": {"$summ": 1}}}], r"\$group: \$summ is not served.*Did you mean .*\$sum"),
    ([{"$group": {"_id": None, "n": {"$size": "$tags"}}}], r"\$group: n: \$size is no accumulator"),
    ([{"$group": {"_id": None, "n": {"$accumulator": {}}}}], r"\$accumulator runs JavaScript"),
    ([{"$group": {"_id": None, "a.b": {"$sum": 1}}}], r"\$group: a name that comes out is text"),
    ([{"$group": {"_id": {"a.b": 1}}}], "without dots"),
    ([{"$bucket": {"groupBy": "$rank"}}], r"\$bucket: takes a dict of groupBy, boundaries, default, output"),
    ([{"$bucket": {"groupBy": "$rank", "boundaries": [1], "output": 5}}], "computes a dict of names and accumulators"),
    ([{"$bucketAuto": {"groupBy": "$rank", "buckets": 2, "x": 1}}], r"\$bucketAuto: takes a dict of groupBy, buckets"),
    ([{"$facet": {}}], r"\$facet: takes a dict of names and pipelines"),
    ([{"$facet": {"a": {}}}], r"\$facet: a: a pipeline is a list"),
    ([{"$facet": {"a.b": []}}], r"\$facet: a name that comes out is text"),
    ([{"$facet": {"a": [{"$facet": {}}]}}], r"\$facet: a: \$facet: stands inside another"),
    ([{"$facet": {"a": [{"$out": "x"}]}}], r"\$facet: a: \$out is not served"),
    ([{"$unwind": "tags"}], r'\$unwind: takes the path of an array, as "\$name"'),
    ([{"$unwind": "$$NOW"}], r'\$unwind: takes the path of an array, as "\$name"'),
    ([{"$unwind": {"includeArrayIndex": "x"}}], r"\$unwind: takes a dict of path"),
    ([{"$unwind": {"path": "$tags", "includeArrayIndex": 5}}], "names are text"),
    ([{"$unwind": {"path": "$tags", "includeArrayIndex": "$x"}}], "a name that is set is text"),
    ([{"$unwind": {"path": "$tags", "preserveNullAndEmptyArrays": 1}}], "is True or False"),
    ([{"$set": {}}], r"\$set: takes a dict"),
    ([{"$set": {"a..b": 1}}], "a name that is set is text"),
    ([{"$set": {"$a": 1}}], "a name that is set is text"),
    ([{"$set": {"a": {"b\0": 1}}}], "a name that is set is text"),
    ([{"$unset": []}], r"\$unset: takes a name, or a list"),
    ([{"$unset": [5]}], "names are text"),
    ([{"$project": {}}], r"\$project: takes a dict of what comes out"),
    ([{"$project": {"a": {5: 1}}}], "names are text"),
    ([{"$project": {"tenant": 1, "rank": 0}}], "what comes out and what is left out at once"),
    ([*GROUP, {"$project": {"total": 0, "x": "$_id"}}], "what comes out and what is left out at once"),
    ([{"$project": {"id": 1, "_id": 1}}], "the id comes out twice, as id and as _id"),
    ([{"$project": {"data": Decimal128("1")}}], "A Decimal128 as a value"),
    ([{"$project": {"x": {"$sum": 1, "$max": 1}}}], r"\$sum stands beside"),
]


@pytest.mark.parametrize(("pipeline", "message"), REFUSED, ids=lambda value: str(value)[:60] if isinstance(value, list) else "")
def test_what_could_be_answered_otherwise_is_refused(pipeline: Any, message: str) -> None:
    """With the stage, the field and the way out, and before anything is sent."""
    with pytest.raises(QueryError, match=message):
        compiled(pipeline)


def test_extra_values_are_neither_read_nor_written_into() -> None:
    """They are encrypted, and under names that the model does not know: what is set may not depend on them."""
    with pytest.raises(QueryError, match="has no field 'more'"):
        compiled([{"$set": {"x": "$more"}}, {"$count": "n"}], LOOSE)
    for stage in ({"$set": {"more.x": 1}}, {"$set": {"more": {"x": 1}}}, {"$project": {"more.x": "$tenant"}}):
        with pytest.raises(QueryError, match="more: the model keeps extra values, encrypted"):
            compiled([stage, {"$count": "n"}], LOOSE)
    end = {"$project": {"more": 1, "_id": 0}}
    assert compiled([{"$set": {"more": 1}}, end], LOOSE).stages[1:] == [{"$set": {"more": 1}}, end]


def test_an_id_of_another_name_is_understood_while_documents_are_whole() -> None:
    """And comes out as ``_id``."""
    assert compiled([{"$project": {"key": 1}}], LOOSE).stages == [{"$project": {"_id": 1}}]
    assert compiled([{"$project": {"key": 0, "tenant": 1}}], LOOSE).stages == [{"$project": {"_id": 0, "tenant": 1}}]
    with pytest.raises(QueryError, match="key is called _id here"):
        compiled([{"$project": {"key": 1}}, {"$sort": {"key": 1}}], LOOSE)


def test_a_pipeline_inside_itself_is_refused() -> None:
    """As one that is nested beyond reason is."""
    loop: dict[str, Any] = {}
    loop["$and"] = [loop]
    nested: dict[str, Any] = {}
    nested["a"] = nested
    endless: list[Any] = []
    endless.append(endless)
    for pipeline in ([*GROUP, {"$match": loop}], [{"$project": nested}], [{"$group": {"_id": endless}}]):
        with pytest.raises(QueryError, match="inside itself"):
            compiled(pipeline)


# --- at random --------------------------------------------------------------------------------------------------------

CLEAR = ["_id", "tenant", "rank", "price", "at", "tags", "address", "lines", "labels", "note"]
#: Names that may stand beneath, whether they do or not.
BENEATH = {"address": ["city", "code"], "lines": ["sku", "pieces"], "labels": ["x"], "_id": ["a", "min"], "n": ["a"], "m": ["a"]}
#: Not ``id``, which is understood as ``_id`` here, and is no field in the clear.
HIDDEN = ["email", "contact", "contact.city", "data", "hmac", "iv", "t", "g", "nope"]
NEW = ["n", "m", "n", "m", "n", "m", "tenant", "address", "email", "contact", "data", "p", "t", "_id"]
NEW_PATHS = [*NEW, "address.x", "n.a", "contact.x", "lines.x", "tags.x", "labels.z"]
CONSTANTS = [0, 1, 2, "a", "acme", None, True, [], NOON, Decimal128("1.5")]
OF_TWO = ["$eq", "$gt", "$ifNull", "$cmp", "$and", "$or", "$setUnion", "$in", "$mergeObjects"]
OF_ONE = ["$type", "$isArray", "$sum", "$max", "$first", "$isNumber", "$not", "$literal", "$objectToArray"]
CONDITIONS: list[Any] = [
    *("acme", "Ulm", 1, 2, None, {"$gt": 1}, {"$ne": "b"}, {"$lte": NOON}, {"$eq": 1}, {"$exists": True}),
    *({"$type": "array"}, {"$size": 1}, {"$in": ["a", 1]}, {"$not": {"$gt": 1}}, {"$elemMatch": {"$gt": "a"}}),
]


class Random:
    """Draws stages that fit the names that there are, as a rule."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self._draw = draw
        self._names = CLEAR

    def among(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def rarely(self, percent: int) -> bool:
        return bool(self._draw(st.integers(0, 99)) >= 100 - percent)

    def name(self) -> str:
        if self.rarely(2) or not self._names:
            return str(self.among(*HIDDEN))
        top = self.among(*self._names)
        return f"{top}.{self.among(*BENEATH[top])}" if top in BENEATH and self.rarely(25) else str(top)

    def names(self) -> list[str]:
        return [self.name() for _ in range(self.among(1, 2, 3))]

    def expression(self, depth: int = 2) -> Any:
        kind = self.among("path", "path", "path", "constant", "two", "one", "cond", "let", "filter", "field", "object")
        if kind == "path" or not depth:
            return self.among("$$ROOT", "$$v") if self.rarely(1) else f"${self.name()}"
        if kind == "constant":
            return self.among(*CONSTANTS)
        one, two = self.expression(depth - 1), self.expression(depth - 1)
        return {
            "two": {self.among(*OF_TWO): [one, two]},
            "one": {self.among(*OF_ONE): one},
            "cond": {"$cond": {"if": one, "then": two, "else": "x"}},
            "let": {"$let": {"vars": {"v": one}, "in": ["$$v", two]}},
            "filter": {"$filter": {"input": one, "as": "v", "cond": {"$ne": ["$$v", two]}}},
            "field": {"$getField": {"field": self.among("city", "email"), "input": one} if self.rarely(50) else self.name()},
            "object": {"a": one},
        }[kind]

    def accumulator(self) -> Any:
        """Not $addToSet, which gives its elements in another order from one time to the next."""
        if self.rarely(20):
            return {self.among("$top", "$bottom"): {"sortBy": {self.name(): 1, "_id": 1}, "output": self.expression(1)}}
        return {self.among("$sum", "$max", "$min", "$first", "$last", "$push"): self.expression(1)}

    def filter(self) -> Any:
        """Not of stored names, which a filter on whole documents understands, as that of a find does."""
        found = {name: self.among(*CONDITIONS) for name in self.names() if name not in ("t", "g")}
        return {"$nor": [found, {"rank": 3}]} if self.rarely(25) and self._names is CLEAR else found

    def computed(self) -> dict[str, Any]:
        return {self.among(*NEW_PATHS): self.expression() for _ in range(self.among(1, 2))}

    def steps(self) -> Pipeline:
        """One stage, after a sort where what it gives depends on an order that MongoDB does not promise."""
        name = self.among("match", "limit", "sort", "show", "show", "leave", "set", "unset", "unwind", "group", "count", "bucket")
        steps: Pipeline = getattr(self, name)()
        return steps

    def match(self) -> Pipeline:
        return [{"$match": self.filter()}]

    def limit(self) -> Pipeline:
        return [BY_ID, {"$limit": self.among(1, 3, 9)}]

    def sort(self) -> Pipeline:
        return [{"$sort": {self.name(): self.among(1, -1), "_id": 1}}]

    def show(self) -> Pipeline:
        shown: dict[str, Any] = dict.fromkeys(self.names(), 1)
        shown |= self.computed() if self.rarely(60) else {}
        shown |= {"_id": 0} if self.rarely(20) else {}
        left = sorted({name.partition(".")[0] for name, value in shown.items() if value != 0 or name != "_id"})
        self._names = left + ["_id"] * (shown.get("_id", 1) != 0 and "_id" in self._names)
        return [{"$project": shown}]

    def leave(self) -> Pipeline:
        return [{"$project": dict.fromkeys(self.names(), 0)}]

    def set(self) -> Pipeline:
        given = self.computed()
        self._names = [*self._names, *(name.partition(".")[0] for name in given)]
        return [{"$set": given}]

    def unset(self) -> Pipeline:
        gone = self.name()
        self._names = [name for name in self._names if name != gone]
        return [{"$unset": gone}]

    def unwind(self) -> Pipeline:
        path = f"${self.name()}"
        if self.rarely(50):
            return [{"$unwind": path}]
        index = self.among(*NEW_PATHS)
        self._names = [*self._names, index.partition(".")[0]]
        return [{"$unwind": {"path": path, "includeArrayIndex": index, "preserveNullAndEmptyArrays": self.rarely(50)}}]

    def group(self) -> Pipeline:
        key, name = self.among(self.expression(), {"a": self.expression()}), self.among(*NEW)
        group = {"$group": {name: self.accumulator(), "_id": key}}
        self._names = ["_id", name]
        return [BY_ID, group]

    def count(self) -> Pipeline:
        name, key = self.among(*NEW), self.expression()
        by_key = self.rarely(50)
        self._names = ["_id", "count"] if by_key else [name]
        return [{"$sortByCount": key}] if by_key else [{"$count": name}]

    def bucket(self) -> Pipeline:
        path, output = f"${self.name()}", {self.among(*NEW): self.accumulator()}
        self._names = ["_id", *output]
        if self.rarely(50):
            return [BY_ID, {"$bucketAuto": {"groupBy": path, "buckets": 2, "output": output}}]
        return [BY_ID, {"$bucket": {"groupBy": path, "boundaries": [0, 2, 4], "default": "x", "output": output}}]

    def pipeline(self) -> Pipeline:
        found = [stage for _ in range(self.among(1, 2, 3, 4)) for stage in self.steps()]
        return [*found, {"$project": dict.fromkeys(self.names(), 1)}] if self.rarely(60) else found


@st.composite
def pipelines(draw: Callable[..., Any]) -> Pipeline:
    if draw(st.integers(0, 9)) == 9:
        return [{"$facet": {"n": Random(draw).pipeline(), "m": Random(draw).pipeline()}}]
    return Random(draw).pipeline()


def as_a_set(value: Any) -> Any:
    """The same for what differs in order alone: a $group promises none, neither of documents nor of elements."""
    if isinstance(value, dict):
        return repr(sorted((name, as_a_set(each)) for name, each in value.items()))
    return repr(sorted(as_a_set(each) for each in value)) if isinstance(value, list) else repr(value)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(pipelines())
def test_stages_at_random_answer_the_same_or_are_refused(twins: Twins, pipeline: Pipeline) -> None:
    """Whatever is not a QueryError gives what the same pipeline gives in the clear, or fails on the server as it does there."""
    try:
        found = compiled(pipeline)
    except QueryError:
        event("refused")
        return
    try:
        expected = twins.in_the_clear(pipeline)
    except OperationFailure:
        event("fails")
        with pytest.raises(OperationFailure):
            list(twins.sealed.aggregate(found.stages))
        return
    event("whole" if found.whole else f"answered, {'not ' * bool(expected)}empty")
    answer, wanted = as_a_set(twins.answer(pipeline)), as_a_set(expected)
    if answer != wanted:  # a $limit or $first behind a $group may take another document each time: then both do
        answers = {as_a_set(twins.answer(pipeline)) for _ in range(20)} | {answer}
        assert answers & ({as_a_set(twins.in_the_clear(pipeline)) for _ in range(20)} | {wanted}), (answer, wanted)
