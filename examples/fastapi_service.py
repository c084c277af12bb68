"""A service over HTTP whose customers are sealed: FastAPI, `AsyncRepository`, and ETags that are revisions.

    pip install -e '.[embedded]' fastapi uvicorn
    uvicorn examples.fastapi_service:app

Without ``MONGODB_URI`` it starts a throw-away MongoDB, and makes ``keys.json`` if that is not there. With it, the keys must exist:
in ``MONGO_ENVELOPE_KEYS``, or in the file. Who may do what is not shown here: a real service takes the tenant from the login.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pymongo import AsyncMongoClient

from mongo_envelope import (
    AsyncRepository,
    DocumentNotFoundError,
    DuplicateValueError,
    KeyRing,
    KeyUnavailableError,
    MongoEnvelopeError,
    Queryable,
    QueryError,
    RevisionConflictError,
    embedded,
)

log = logging.getLogger(__name__)

Status = Literal["lead", "active", "closed"]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=10_000)]


class Customer(BaseModel):
    """What is kept. The fields that are not marked are encrypted."""

    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[Line, Queryable(index=True)]
    status: Annotated[Status, Queryable()]
    created_at: Annotated[datetime, Queryable(index=True)] = Field(default_factory=lambda: datetime.now(UTC))
    name: Line
    email: Line
    notes: Text


class CustomerIn(BaseModel):
    """What a client writes: no id and no date."""

    model_config = ConfigDict(extra="forbid")

    tenant: Line
    status: Status = "lead"
    name: Line
    email: Line
    notes: Text = ""


class CustomerPatch(BaseModel):
    """What a client changes. A field that is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    tenant: Line | None = None
    status: Status | None = None
    name: Line | None = None
    email: Line | None = None
    notes: Text | None = None

    @field_validator("*")  # of what was sent; defaults are not validated
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("null is no value here: leave the field out")
        return value


class CustomerOut(CustomerIn):
    """What a client reads."""

    id: UUID
    created_at: datetime


class Listing(BaseModel):
    """What a client may ask for, and where the page begins: after the customer of this date and id."""

    model_config = ConfigDict(extra="forbid")

    tenant: Line | None = None
    status: Status | None = None
    limit: int = Field(20, ge=1, le=100)
    after: datetime | None = None
    after_id: UUID = UUID(int=0)


# --- The repository, and what a request brings ---------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database and the keys at the start, and close the client at the end."""
    with embedded.start() as server:  # the server of MONGODB_URI, if that is set
        async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
            # A new key opens nothing that is stored already, so one is made for the throw-away server only.
            in_environment = "MONGO_ENVELOPE_KEYS" in os.environ
            keys = KeyRing.from_env() if in_environment else KeyRing.from_file("keys.json", create=server.is_local)
            app.state.customers = AsyncRepository(Customer, client.get_default_database("crm").customers, keys=keys)
            await app.state.customers.setup()
            yield


app = FastAPI(title="Customers", lifespan=lifespan)


async def the_repository(request: Request) -> AsyncRepository[Customer]:
    """The one that was made at the start: it is safe to share."""
    customers: AsyncRepository[Customer] = request.app.state.customers
    return customers


Customers = Annotated[AsyncRepository[Customer], Depends(the_repository)]
# A revision in quotes is an ETag, and save and delete take it as the client sends it back. A list of ETags, a weak one and *
# are none that was ever given out, and so end in 412.
ETag = Annotated[str | None, Header()]


def described(customers: AsyncRepository[Customer], customer: Customer) -> dict[str, str]:
    """The headers of an answer with one customer. It is personal: no cache may share it, or use it without asking."""
    return {"ETag": f'"{customers.revision(customer)}"', "Cache-Control": "private, no-cache"}


# --- The routes ----------------------------------------------------------------------------------------------------------


@app.post("/customers", status_code=201, response_model=CustomerOut)
async def create(body: CustomerIn, customers: Customers, request: Request, response: Response) -> Customer:
    """A new customer."""
    customer = await customers.save(Customer(**body.model_dump()))
    response.headers.update(described(customers, customer))
    response.headers["Location"] = str(request.url_for("read", id=customer.id))
    return customer


@app.get("/customers", response_model=list[CustomerOut])
async def find(asked: Annotated[Listing, Query()], customers: Customers, request: Request, response: Response) -> list[Customer]:
    """The oldest first. A header Link leads to the next page (RFC 8288)."""
    where = asked.model_dump(include={"tenant", "status"}, exclude_none=True)
    if asked.after is not None:
        same_date = {"created_at": asked.after, "id": {"$gt": asked.after_id}}
        where["$or"] = [same_date, {"created_at": {"$gt": asked.after}}]
    response.headers["Cache-Control"] = "private, no-cache"
    found = await customers.find(where).sort([("created_at", 1), ("id", 1)]).limit(asked.limit).to_list()
    if len(found) == asked.limit:
        following = request.url.include_query_params(after=found[-1].created_at.isoformat(), after_id=found[-1].id)
        response.headers["Link"] = f'<{following}>; rel="next"'
    return found


@app.get("/customers/{id}", response_model=CustomerOut)
async def read(id: UUID, customers: Customers, response: Response, if_none_match: ETag = None) -> Customer | Response:
    """One customer, or 304 if the client has it already."""
    customer = await customers.load(id)
    headers = described(customers, customer)
    if headers["ETag"] in (if_none_match or ""):  # its quotes keep it apart from others in a list
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return customer


@app.put("/customers/{id}", response_model=CustomerOut)
async def replace(id: UUID, body: CustomerIn, customers: Customers, response: Response, if_match: ETag = None) -> Customer:
    """All that a client can write. The instance is a new one, so it is the ETag that says what it replaces."""
    if if_match is None:
        raise HTTPException(428, "PUT needs If-Match, with the ETag of the customer that is replaced")  # RFC 6585, 3
    before = await customers.load(id)
    customer = Customer(id=id, created_at=before.created_at, **body.model_dump())
    await customers.save(customer, revision=if_match)
    response.headers.update(described(customers, customer))
    return customer


@app.patch("/customers/{id}", response_model=CustomerOut)
async def change(id: UUID, body: CustomerPatch, customers: Customers, response: Response, if_match: ETag = None) -> Customer:
    """Only the fields that were sent. Without If-Match they are changed whatever the others have become."""
    customer = await customers.update(id, body.model_dump(exclude_unset=True), revision=if_match)
    response.headers.update(described(customers, customer))
    return customer


@app.delete("/customers/{id}", status_code=204)
async def delete(id: UUID, customers: Customers, if_match: ETag = None) -> None:
    """Gone for good: what is not in a backup cannot be brought back."""
    if not await customers.delete(id, revision=if_match):
        raise HTTPException(404, "there is no such customer")


# --- What goes wrong -----------------------------------------------------------------------------------------------------


@app.exception_handler(MongoEnvelopeError)
async def answer_for(request: Request, error: MongoEnvelopeError) -> JSONResponse:
    """Errors name fields and ids, never values. What only the operator can mend goes to the log, and not to the client."""
    match error:
        case DocumentNotFoundError():
            status, detail = 404, "there is no such customer"
        case RevisionConflictError():
            status, detail = 412 if "if-match" in request.headers else 409, "somebody else has changed it"
        case DuplicateValueError():
            status, detail = 409, "another customer has the same value"
        case QueryError():
            status, detail = 422, str(error)
        case KeyUnavailableError():
            status, detail = 503, "the keys are not available"
        case _:  # EnvelopeError: what is stored is wrong, or was edited
            status, detail = 500, "the customer cannot be read"
    if status >= 500:
        log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return JSONResponse({"detail": detail}, status)


@app.exception_handler(RequestValidationError)
async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
    """As FastAPI does, but without ``input``: it is the client's own, and yet needs not stand in the logs of every proxy."""
    return JSONResponse({"detail": [{part: each[part] for part in ("loc", "type", "msg")} for each in error.errors()]}, 422)
