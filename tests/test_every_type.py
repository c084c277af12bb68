"""Every type, saved to and loaded from a real mongod, sensitive and queryable, wherever it may stand."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from conftest import Driver
from every_type import ANYTHING, EVERY_TYPE, PLACES, placed, same
from pydantic import BaseModel, ConfigDict, create_model
from pymongo.database import Database

from mongo_envelope import Queryable, QueryError, SchemaError, Sensitive

Db = Database[dict[str, Any]]
#: Types that cannot stand in the clear, each with the reason that the SchemaError gives.
NEVER_QUERYABLE = {
    **dict.fromkeys(["SecretStr", "SecretBytes", "Secret[int]", "Secret[bytes]", "Secret subclass"], "a secret does not belong"),
    **dict.fromkeys(
        ["nested model", "base or subclass", "two models", "model or dict", "secret or int"], "a secret does not belong"
    ),
    **dict.fromkeys(["Any", "Json", "model with extras"], "Any has no fixed form"),
    **dict.fromkeys(["Pattern[str]", "Pattern[bytes]", "Pattern"], "a regular expression"),
    "complex": "no complex numbers",
}
#: Types of which MongoDB would compare something else than a person means: the order of keys, 34 digits. See test_query.
COMPARED_OTHERWISE = {
    *(
        "Decimal",
        "Mapping",
        "OrderedDict",
        "OrderedDict of int",
        "defaultdict",
        "Counter",
        "Counter of int",
        "recursive alias",
        "JsonValue",
    ),
    *(name for name in EVERY_TYPE if name.startswith("dict ")),
}


def model_of(kind: Any, marker: Any) -> type[BaseModel]:
    return create_model(
        "Model", __config__=ConfigDict(arbitrary_types_allowed=True), id=(int, ...), field=(Annotated[kind, marker], ...)
    )


@pytest.mark.parametrize("name", EVERY_TYPE)
async def test_every_type_comes_back_from_the_database(driver: Driver, database: Db, name: str) -> None:
    """Sensitive, and queryable where it can stand in the clear: equal in value and type, in each place."""
    kind, values = EVERY_TYPE[name]
    for place in PLACES:
        where, put = placed(place, kind)
        if name in ANYTHING and place == "in a union":
            continue  # refused when the repository is built: see test_lossless
        for marker in (Sensitive(), Queryable()):
            model = model_of(where, marker)
            if isinstance(marker, Queryable) and name in NEVER_QUERYABLE:
                with pytest.raises(SchemaError, match=NEVER_QUERYABLE[name]):
                    driver.repository(model)
                continue
            repository = driver.repository(model)
            saved = [model.model_construct(id=number, field=put(value)) for number, value in enumerate(values)]
            await repository.save_many(saved)
            for one in saved:
                assert same(one, await repository.load(one.id)), (place, marker, one)  # type: ignore[attr-defined]
            assert len(await repository.find({"id": {"$gte": 0}}).to_list()) == len(saved)
            database.customers.delete_many({})


@pytest.mark.parametrize("name", [name for name in EVERY_TYPE if name not in NEVER_QUERYABLE])
async def test_a_queryable_value_is_found_by_itself(driver: Driver, name: str) -> None:
    """The filter's value is projected as the stored one was; where MongoDB would compare something else, it is refused."""
    kind, values = EVERY_TYPE[name]
    model = model_of(kind, Queryable())
    repository = driver.repository(model)
    for number, value in enumerate(values):
        one = model.model_construct(id=number, field=value)
        await repository.save(one)
        try:
            found = await repository.find({"field": value}).to_list()
        except QueryError:
            assert name in COMPARED_OTHERWISE
            continue
        assert any(same(one, each) for each in found), value
