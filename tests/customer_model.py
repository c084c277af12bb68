"""The model of most tests of the repository, and a look at its documents past the repository."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

from bson.raw_bson import RawBSONDocument
from pydantic import BaseModel, Field
from pymongo.database import Database

from mongo_envelope import Queryable, Sensitive

SECRET = "correct horse battery staple"


class Customer(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable()] = "acme"
    rank: Annotated[int, Queryable()] = 0
    email: Annotated[str, Sensitive()] = "ada@example.com"
    notes: str = ""


def raw_documents(database: Database[dict[str, Any]]) -> list[RawBSONDocument]:
    collection: Any = database.customers
    options = collection.codec_options.with_options(document_class=RawBSONDocument)
    return list(collection.with_options(codec_options=options).find())
