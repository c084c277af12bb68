"""A realistic customer of about 1 KB, and as many of them as one likes. Shared by `demo.py` and the benchmarks."""

import random
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID, uuid4

from faker import Faker
from pydantic import BaseModel, Field

from mongo_envelope import Queryable, Sensitive

TENANTS = ["acme", "globex", "initech"]
STATUSES: list[Literal["lead", "active", "closed"]] = ["lead", "active", "closed"]
INTERESTS = ["astronomy", "ceramics", "chess", "climbing", "cooking", "gardening", "jazz", "photography", "sailing", "theatre"]


class Address(BaseModel):
    """A part of a sensitive field is as sensitive as the field."""

    street: str
    city: str
    postcode: str
    country: str


class Customer(BaseModel):
    """A plain pydantic model. The markers are all that mongo_envelope asks of it."""

    # In the clear, so that MongoDB can find and sort by them. Authenticated: an edit is noticed.
    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)]
    status: Annotated[Literal["lead", "active", "closed"], Queryable()]
    created_at: Annotated[datetime, Queryable(index=True)]

    # Encrypted, all in one piece.
    name: Annotated[str, Sensitive()]
    email: Annotated[str, Sensitive()]
    phones: Annotated[list[str], Sensitive()]
    address: Annotated[Address, Sensitive()]
    national_id: Annotated[str, Sensitive()]
    iban: Annotated[str, Sensitive()]
    employer: Annotated[str, Sensitive()]
    job: Annotated[str, Sensitive()]
    income: Annotated[int, Sensitive()]
    last_seen: Annotated[datetime, Sensitive()]
    interests: Annotated[list[str], Sensitive()]
    notes: str = ""  # no marker: encrypted too. What nobody thought about is not exposed.


def make_customers(count: int, *, seed: int = 1) -> list[Customer]:
    """Invent customers: with one seed the same people each time, under new ids."""
    faker, choose = Faker("en_GB"), random.Random(seed)
    faker.seed_instance(seed)
    return [_make_customer(faker, choose) for _ in range(count)]


def _make_customer(faker: Faker, choose: random.Random) -> Customer:
    created_at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=choose.randrange(2 * 365 * 86_400))
    name = faker.name()
    return Customer(
        tenant=choose.choice(TENANTS),
        status=choose.choice(STATUSES),
        created_at=created_at,
        name=name,
        email=f"{name.lower().replace(' ', '.')}@{faker.free_email_domain()}",
        phones=[faker.phone_number() for _ in range(2)],
        address=Address(
            street=faker.street_address().replace("\n", ", "),
            city=faker.city(),
            postcode=faker.postcode(),
            country="United Kingdom",
        ),
        national_id=faker.ssn(),
        iban=faker.iban(),
        employer=faker.company(),
        job=faker.job(),
        income=choose.randrange(18_000, 160_000),
        last_seen=created_at + timedelta(seconds=choose.randrange(300 * 86_400)),
        interests=choose.sample(INTERESTS, 4),
        notes=faker.paragraph(nb_sentences=10),
    )
