"""Tables of what a cursor gives: their columns and types, that no value is lost in them, and what they say without the library."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

import pandas as pd
import polars as pl
import pytest
from conftest import Driver
from pydantic import BaseModel, ConfigDict, RootModel, SecretStr, computed_field
from pymongo.database import Database

from mongo_envelope import ConfigurationError, IntegrityError, Queryable, QueryError
from mongo_envelope.bridge import settle
from mongo_envelope.frames import Table

Db = Database[dict[str, Any]]
KINDS: Any = pytest.mark.parametrize("kind", ["pandas", "polars"])


class Colour(StrEnum):
    RED = "red"


class Size(Enum):
    SMALL = 1


class Address(BaseModel):
    city: str
    geo: tuple[float, float] | None = None


class Tags(RootModel[list[str]]):
    """A list, as a model."""


class Person(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int
    tenant: Annotated[str, Queryable()] = "acme"
    born: Annotated[date | None, Queryable()] = None
    seen: datetime = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    key: UUID | None = None
    secret: SecretStr | None = None
    colour: Colour = Colour.RED
    size: Size = Size.SMALL
    price: Decimal = Decimal("1.10")
    big: int | None = None
    address: Address | None = None
    others: list[Address] = []
    by_name: dict[str, Address] = {}
    tags: Tags = Tags([])

    @computed_field  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def initial(self) -> Annotated[str, Queryable()]:
        return self.tenant[0]


COLUMNS = [*Person.model_fields, "initial"]


def rows(frame: Any) -> list[dict[str, Any]]:
    """What stands in a table of either kind, with None for what is missing."""
    if isinstance(frame, pl.DataFrame):
        return frame.to_dicts()
    found = {name: frame[name].astype(object).to_list() for name in frame.columns}
    missing = {name: [None if each is None or each is pd.NaT or each != each else each for each in found[name]] for name in found}  # noqa: PLR0124 - NaN
    return [dict(zip(missing, each, strict=True)) for each in zip(*missing.values(), strict=True)]


@KINDS
async def test_models_become_rows(driver: Driver, kind: str) -> None:
    """A column for each field, computed ones included, in their order; models within models as dicts, all else as it is."""
    people = driver.repository(Person)
    one = Person(id=1, born=date(1815, 12, 10), key=uuid4(), secret=SecretStr("s"), address=Address(city="Riga", geo=(1.5, 2)))
    two = Person(id=2, others=[Address(city="Oslo")], by_name={"home": Address(city="Bern")}, tags=Tags(["a"]), big=2**60 + 1)
    await people.save_many([one, two])
    frame = await people.find(sort="id").to_frame(kind)
    assert type(frame) is {"pandas": pd.DataFrame, "polars": pl.DataFrame}[kind]
    assert list(frame.columns) == COLUMNS
    first, second = rows(frame)
    names = ("id", "tenant", "born", "seen", "key", "secret", "colour", "price")
    assert {name: first[name] for name in names} == {name: getattr(one, name) for name in names}
    assert first["size"] == (Size.SMALL if kind == "pandas" else 1)
    assert first["address"] == {"city": "Riga", "geo": [1.5, 2.0]}
    assert second["others"] == [{"city": "Oslo", "geo": None}]
    assert second["by_name"] == {"home": {"city": "Bern", "geo": None}}
    assert second["tags"] == ["a"]
    assert second["big"] == 2**60 + 1
    assert second["initial"] == "a"
    assert (second["born"], second["key"], second["secret"], first["big"]) == (None,) * 4
    if kind == "pandas":
        assert (frame.dtypes["id"], frame.dtypes["seen"], frame.dtypes["big"]) == ("int64", "datetime64[us, UTC]", object)
    else:
        assert (frame.schema["id"], frame.schema["born"], frame.schema["secret"]) == (pl.Int64, pl.Date, pl.Object)


@KINDS
async def test_nothing_found_is_a_table_with_columns(driver: Driver, kind: str) -> None:
    """Of models and of metadata; of a pipeline nobody knows them."""
    people = driver.repository(Person)
    assert list((await people.find().to_frame(kind)).columns) == COLUMNS
    metadata = await people.find(fields="metadata").to_frame(kind)
    assert list(metadata.columns) == ["id", "tenant", "born", "initial"]
    assert len(metadata) == 0
    grouped = await people.aggregate([{"$group": {"_id": "$tenant"}}])
    assert (await settle(grouped.to_frame(kind))).shape == (0, 0)


@KINDS
async def test_metadata_and_pipelines_become_rows(driver: Driver, kind: str) -> None:
    """What stands in the clear, and what a pipeline makes of it, whose documents need not be alike."""
    people = driver.repository(Person)
    await people.save_many([Person(id=1), Person(id=2, tenant="globex", born=date(2000, 1, 1))])
    metadata = await people.find(fields="metadata", sort="id").to_frame(kind)
    assert rows(metadata)[1] == {"id": 2, "tenant": "globex", "born": date(2000, 1, 1), "initial": "g"}
    counted = await people.aggregate([{"$group": {"_id": "$tenant", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}])
    assert rows(await settle(counted.to_frame(kind))) == [{"_id": "acme", "n": 1}, {"_id": "globex", "n": 1}]


@KINDS
async def test_a_table_of_what_is_left(driver: Driver, database: Db, kind: str) -> None:
    """After the loop has begun, of a slice, without what is skipped; and what raises, raises."""
    people = driver.repository(Person)
    await people.save_many([Person(id=number) for number in range(5)])
    cursor = people.find(sort="id")
    await anext(cursor)
    assert [each["id"] for each in rows(await cursor.to_frame(kind))] == [1, 2, 3, 4]
    assert [each["id"] for each in rows(await people.find(sort="id")[1:3].to_frame(kind))] == [1, 2]
    database.customers.update_one({"_id": 2}, {"$set": {"tenant": "x"}})
    assert [each["id"] for each in rows(await people.find(sort="id", on_invalid="skip").to_frame(kind))] == [0, 1, 3, 4]
    with pytest.raises(IntegrityError):
        await people.find().to_frame(kind)


@KINDS
async def test_extra_fields_get_columns(driver: Driver, kind: str) -> None:
    """When they first come; before that they are missing."""
    people = driver.repository(Person)
    await people.save_many([Person(id=1), Person(id=2, nick="ada"), Person(id=3)])
    frame = await people.find(sort="id").to_frame(kind)
    assert list(frame.columns) == [*COLUMNS, "nick"]
    assert [each["nick"] for each in rows(frame)] == [None, "ada", None]


@KINDS
@pytest.mark.parametrize(
    "values",
    [
        [1, None, 2**60 + 1],
        [2**70, 1],
        [1, "a"],
        [1.5, None, 2],
        [True, None],
        [b"a", None],
        [datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)],
        [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), None],
        [datetime(1, 1, 1), None],
        [timedelta.max, timedelta(microseconds=1)],
        [Decimal("NaN").copy_abs(), Decimal("sNaN"), Decimal("1.5")],
        [Decimal("1." + "1" * 40)],
        [Decimal("Infinity"), None],
        [Size.SMALL, None],
        [{"a": 1}, {"a": 2, "b": 3}, {}],
        [{"a": 1}] * 200 + [{"z": 1}],
        [{1: 2}],
        [[1], ["a"], None],
        [[SecretStr("x")]],
        [None, None],
        ["\ud800", "a\0b", "\u20ac"],
        [1j],
        [pl, object()],
    ],
    ids=lambda values: str(values)[:30],
)
def test_no_value_is_lost(kind: Any, values: list[Any]) -> None:
    """Where the library would round, coerce or drop one, the column has the Python objects themselves."""
    table = Table(kind, ["x"])
    for value in values:
        table.add({"x": value})
    column = table.frame()["x"]
    given = column.to_list()
    assert len(given) == len(values)
    for one, other in zip(given, values, strict=True):
        if isinstance(other, Enum) and kind == "polars":
            other = other.value  # noqa: PLW2901 - polars has no enumerations of objects
        assert one is other or one == other or (other is None and (one is pd.NaT or one != one))  # noqa: PLR0124 - NaN


def test_an_object_that_cannot_be_compared_stays_as_it_is() -> None:
    """Of a class of the user's, say, whose equality raises."""

    class Odd:
        __hash__ = None  # type: ignore[assignment]  # it has no use for one

        def __eq__(self, other: object) -> bool:
            raise TypeError

    odd = Odd()
    for kind in ("pandas", "polars"):
        table = Table(kind, ["x"])
        table.add({"x": odd})
        assert table.frame()["x"].to_list()[0] is odd


@KINDS
async def test_without_the_library(driver: Driver, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra, and comes before anything is asked for; another kind is refused."""
    monkeypatch.setitem(sys.modules, kind, None)
    cursor = driver.repository(Person).find()
    with pytest.raises(ConfigurationError, match=rf"pip install mongo-envelope\[{kind}\]") as caught:
        await cursor.to_frame(kind)
    assert caught.value.__context__ is None
    with pytest.raises(QueryError, match='"pandas" or "polars"'):
        await cursor.to_frame("arrow")
    assert cursor.inner._cursor.retrieved == 0
