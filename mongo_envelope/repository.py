"""The repository: models in, models out, sealed documents in between.

The flows are written once, in `flows`; `Repository` drives them over ``MongoClient``, `AsyncRepository` awaits them over
``AsyncMongoClient`` (`bridge` says how).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection

from .bridge import drive
from .codec import DocumentCodec
from .cursor import AsyncCursor, Cursor
from .flows import Filter, Flows, SortKey
from .keys import KeyRing

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.client_session import ClientSession

__all__ = ["AsyncRepository", "Repository"]

Model = TypeVar("Model", bound=BaseModel)


class _Shell(Generic[Model]):
    """What the two repositories have in common: construction, and a cursor's filter checked at once."""

    _kind: type

    def __init__(
        self, model: type[Model], collection: Any, *, keys: KeyRing, context: str | None = None, validate_on_save: bool = False
    ) -> None:
        """Compile the model for one collection.

        ``context``: the name under which keys are derived; the collection's name by default, so that a restore into another
        database opens. ``validate_on_save``: also run the model's validators before sealing.

        Raise `SchemaError` for a model that cannot be kept, `ConfigurationError` for anything else that does not fit.
        """
        self._flows = Flows(model, collection, self._kind, keys=keys, context=context, validate_on_save=validate_on_save)

    @property
    def codec(self) -> DocumentCodec[Model]:
        """The codec: `seal` and `open` without a database."""
        return self._flows.codec

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._flows.schema.model.__name__}, {self._flows.name!r})"


class Repository(_Shell[Model]):
    """Keeps models of one class in one collection of a ``MongoClient``, sealed.

    ``Repository(Customer, client.crm.customers, keys=keys)``. Safe to share between threads.
    """

    _kind = Collection

    def save(self, model: Model, *, overwrite: bool = False, session: ClientSession | None = None) -> Model:
        """Write an instance, and give it back. A loaded one only if nobody wrote in between; a new one only if it is new.

        ``overwrite`` writes in any case. Raise `PayloadError` (before anything is sent) for a value that cannot be kept,
        `RevisionConflictError`, `DocumentNotFoundError` if it has been deleted, `DuplicateValueError` for a unique index.
        """
        return drive(self._flows.save(model, overwrite=overwrite, session=session))

    def save_many(self, models: Iterable[Model], *, session: ClientSession | None = None) -> list[Model]:
        """Save several: new ones in one ordered insert, then loaded ones one by one. All are sealed before any is sent."""
        return drive(self._flows.save_many(models, session=session))

    def load(self, id: Any, *, session: ClientSession | None = None) -> Model:
        """The model with this id, verified. Raise `DocumentNotFoundError`, `EnvelopeError` or `UnknownKeyError`."""
        return drive(self._flows.load(id, session=session))

    def find_one(self, filter: Filter = None, *, sort: SortKey | None = None, session: ClientSession | None = None) -> Model | None:
        """The first model that matches, or None. The filter is as for `find`."""
        return drive(self._flows.find_one(filter, sort=sort, session=session))

    def find(
        self,
        filter: Filter = None,
        *,
        sort: SortKey | None = None,
        skip: int = 0,
        limit: int = 0,
        session: ClientSession | None = None,
    ) -> Cursor[Model]:
        """A cursor over what matches a filter on queryable fields. Raise `QueryError` at once for one that cannot be served."""
        return Cursor(self._flows, self._flows.find(filter, sort=sort, skip=skip, limit=limit, session=session))

    def delete(self, id: Any, *, session: ClientSession | None = None) -> bool:
        """Delete the document with this id. Whether there was one."""
        return drive(self._flows.delete(id, session=session))


class AsyncRepository(_Shell[Model]):
    """`Repository` over an ``AsyncMongoClient``: the same names and parameters, awaited."""

    _kind = AsyncCollection

    async def save(self, model: Model, *, overwrite: bool = False, session: AsyncClientSession | None = None) -> Model:
        """See `Repository.save`."""
        return await self._flows.save(model, overwrite=overwrite, session=session)

    async def save_many(self, models: Iterable[Model], *, session: AsyncClientSession | None = None) -> list[Model]:
        """See `Repository.save_many`."""
        return await self._flows.save_many(models, session=session)

    async def load(self, id: Any, *, session: AsyncClientSession | None = None) -> Model:
        """See `Repository.load`."""
        return await self._flows.load(id, session=session)

    async def find_one(
        self,
        filter: Filter = None,
        *,
        sort: SortKey | None = None,
        session: AsyncClientSession | None = None,
    ) -> Model | None:
        """See `Repository.find_one`."""
        return await self._flows.find_one(filter, sort=sort, session=session)

    def find(
        self,
        filter: Filter = None,
        *,
        sort: SortKey | None = None,
        skip: int = 0,
        limit: int = 0,
        session: AsyncClientSession | None = None,
    ) -> AsyncCursor[Model]:
        """See `Repository.find`. Not awaited; the cursor is."""
        return AsyncCursor(self._flows, self._flows.find(filter, sort=sort, skip=skip, limit=limit, session=session))

    async def delete(self, id: Any, *, session: AsyncClientSession | None = None) -> bool:
        """See `Repository.delete`."""
        return await self._flows.delete(id, session=session)
