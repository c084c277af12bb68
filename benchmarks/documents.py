"""The three models that are measured, and as many instances of them as one likes: about 200 bytes, 1 KB and 64 KB of BSON."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from faker import Faker
from pydantic import BaseModel, Field, create_model

from examples.customers import STATUSES, TENANTS, Customer, make_customers
from mongo_envelope import BlindIndex, Queryable, Sensitive

__all__ = ["Family", "families"]

CONTACTS = 278  # of one dossier
CHANNELS: list[Literal["phone", "letter", "visit"]] = ["phone", "letter", "visit"]


class Reminder(BaseModel):
    """About 200 bytes."""

    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)]
    due_at: Annotated[datetime, Queryable(index=True)]
    email: Annotated[str, Sensitive()]
    notes: Annotated[str, Sensitive()]


class Contact(BaseModel):
    """One of many in a `Dossier`."""

    at: datetime
    channel: Literal["phone", "letter", "visit"]
    clerk: str
    minutes: int
    said: str


class Dossier(BaseModel):
    """About 64 KB: a customer and all that was ever said."""

    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)]
    status: Annotated[Literal["lead", "active", "closed"], Queryable()]
    opened_at: Annotated[datetime, Queryable(index=True)]
    name: Annotated[str, Sensitive()]
    email: Annotated[str, Sensitive()]
    contacts: Annotated[list[Contact], Sensitive()]
    notes: Annotated[str, Sensitive()]


@dataclass(frozen=True, eq=False)
class Family:
    """One model, and what follows from its size."""

    name: str
    model: type[BaseModel]  #: with our markers
    people: list[Any]  #: instances that are never saved themselves: copies of them are, under new ids
    bulk: int  #: documents in one bulk operation
    searched: int  #: documents among which one is searched

    @property
    def clear(self) -> list[str]:
        """The fields that stand in the clear in ours, and in CSFLE."""
        return [name for name, field in self.model.model_fields.items() if name == "id" or _is_queryable(field.metadata)]

    @property
    def sensitive(self) -> list[str]:
        """All the others."""
        clear = set(self.clear)
        return [name for name in self.model.model_fields if name not in clear]

    @property
    def searchable(self) -> type[BaseModel]:
        """The model whose e-mail address has a blind index."""
        marker = Sensitive(index=BlindIndex(normalize="email", unique=True))
        return create_model(f"Searchable{self.model.__name__}", __base__=self.model, email=(Annotated[str, marker], ...))


def _is_queryable(metadata: list[Any]) -> bool:
    return any(isinstance(each, Queryable) for each in metadata)


def families(*, bulk: int, searched: int) -> list[Family]:
    """The three, the customer first. ``bulk``: documents of the bulk operations; of 64 KB a 40th of that, and a 50th to search."""
    return [
        Family("1 KB", Customer, make_customers(bulk), bulk, searched),
        Family("200 B", Reminder, _reminders(bulk), bulk, searched),
        Family("64 KB", Dossier, _dossiers(bulk // 40), bulk // 40, max(searched // 50, bulk // 40)),
    ]


def _reminders(count: int) -> list[Reminder]:
    faker, choose = _faker(), random.Random(1)
    return [
        Reminder(
            tenant=choose.choice(TENANTS),
            due_at=_some_time(choose),
            email=f"{faker.first_name().lower()}@{faker.free_email_domain()}",
            notes=faker.pystr(min_chars=92, max_chars=92),
        )
        for _ in range(count)
    ]


def _dossiers(count: int) -> list[Dossier]:
    faker, choose = _faker(), random.Random(1)
    said = [faker.paragraph(nb_sentences=3) for _ in range(500)]
    clerks = [faker.name() for _ in range(20)]
    return [
        Dossier(
            tenant=choose.choice(TENANTS),
            status=choose.choice(STATUSES),
            opened_at=_some_time(choose),
            name=faker.name(),
            email=f"{faker.first_name().lower()}@{faker.free_email_domain()}",
            contacts=[
                Contact(
                    at=_some_time(choose),
                    channel=choose.choice(CHANNELS),
                    clerk=choose.choice(clerks),
                    minutes=choose.randrange(1, 90),
                    said=f"{choose.choice(said)} {choose.choice(said)}"[:145],
                )
                for _ in range(CONTACTS)
            ],
            notes=faker.paragraph(nb_sentences=5),
        )
        for _ in range(count)
    ]


def _faker() -> Faker:
    faker = Faker("en_GB")
    faker.seed_instance(1)
    return faker


def _some_time(choose: random.Random) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=choose.randrange(2 * 365 * 86_400))
