"""What a service wants to do at every save, load and delete: methods that a repository calls. Pure.

A service overrides methods of `Hooks`; `Listeners` is what a repository makes of them. For an event that nobody listens to it has
an empty tuple, and the event costs no more than to look at that.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel

from .errors import ConfigurationError, EnvelopeError, PayloadError

__all__ = ["Hooks", "Listeners", "is_integrity_failure"]

Model_contra = TypeVar("Model_contra", bound=BaseModel, contravariant=True)
Listener = Callable[[Any], Any]


class Hooks(Generic[Model_contra]):
    """What a repository calls before and after it saves, loads and deletes. Override what you need: all of it does nothing here.

    ``Repository(Customer, collection, keys=keys, hooks=[Stamp()])``. Several are called in their order, before and after alike.
    Of an `AsyncRepository` each may be a coroutine function. What they give back is ignored. What they raise goes through as it is,
    and the hooks after it are not called. They see plaintext: do not log it.
    """

    def before_save(self, model: Model_contra) -> Awaitable[None] | None:
        """Before an instance is validated and sealed. It may be changed here; what is raised here refuses it: nothing is sent."""

    def after_save(self, model: Model_contra) -> Awaitable[None] | None:
        """Once it is known to be written; in a transaction, before that is committed. After an error it is not called."""

    def before_load(self, what: Any) -> Awaitable[None] | None:
        """Before anything is asked for: the id, the ids, the filter or the pipeline, as the caller gave it."""

    def after_load(self, model: Model_contra) -> Awaitable[None] | None:
        """For each model, verified and decrypted, before it is handed out."""

    def before_delete(self, id: Any) -> Awaitable[None] | None:
        """Before a document is deleted. What is raised here refuses that."""

    def after_delete(self, id: Any) -> Awaitable[None] | None:
        """Once it is known to be deleted. Not called where there was no such document."""

    def integrity_failure(self, error: EnvelopeError) -> Awaitable[None] | None:
        """A stored document is wrong, or not the one that was asked for; whatever ``on_invalid`` says, and before it is raised.

        Not called for what could not be checked (`UnknownKeyError`), nor for a genuine document that no longer fits the model
        (`PayloadError`).
        """


class Listeners:
    """The hooks of one repository, by event: bound methods, of those alone that are overridden."""

    __slots__ = _EVENTS = (
        "before_save",
        "after_save",
        "before_load",
        "after_load",
        "before_delete",
        "after_delete",
        "integrity_failure",
    )

    before_save: tuple[Listener, ...]
    after_save: tuple[Listener, ...]
    before_load: tuple[Listener, ...]
    after_load: tuple[Listener, ...]
    before_delete: tuple[Listener, ...]
    after_delete: tuple[Listener, ...]
    integrity_failure: tuple[Listener, ...]

    @property
    def hear_reading(self) -> bool:
        """Whether anybody listens while documents are read."""
        return bool(self.before_load or self.after_load or self.integrity_failure)

    @property
    def hear_deleting(self) -> bool:
        """Whether anybody has to know the ids of what is deleted."""
        return bool(self.before_delete or self.after_delete)

    @classmethod
    def of(cls, hooks: Sequence[Hooks[Any]], *, may_wait: bool) -> Self:
        """Compile what ``hooks=`` was given. Raise `ConfigurationError`. ``may_wait``: whether a coroutine can be awaited."""
        if not isinstance(hooks, list | tuple):
            raise ConfigurationError(f"hooks= takes a list: hooks=[Stamp()], not a {type(hooks).__name__}")
        listeners = cls()
        for event in cls._EVENTS:
            setattr(listeners, event, tuple(getattr(each, event) for each in hooks if _hears(each, event)))
        for event in cls._EVENTS if not may_wait else ():
            for listener in getattr(listeners, event):
                if inspect.iscoroutinefunction(listener):
                    raise ConfigurationError(
                        f"{type(listener.__self__).__name__}.{event} is a coroutine function: "
                        "give a plain method, or use AsyncRepository"
                    )
        return listeners


def _hears(hooks: Any, event: str) -> bool:
    if not isinstance(hooks, Hooks):
        what = f"the class {hooks.__name__}, not an instance" if isinstance(hooks, type) else f"a {type(hooks).__name__}"
        raise ConfigurationError(f"hooks= takes instances of subclasses of Hooks: class Stamp(Hooks[Customer]); this is {what}")
    for name in vars(type(hooks)):
        if not name.startswith("_") and not hasattr(Hooks, name) and difflib.get_close_matches(name, [event], cutoff=0.8):
            raise ConfigurationError(f"{type(hooks).__name__}.{name} would never be called. Did you mean {event}?")
    return getattr(type(hooks), event) is not getattr(Hooks, event)


def is_integrity_failure(error: Exception) -> bool:
    """Whether an error says that a stored document is wrong: not that it could not be checked, nor that the model has changed."""
    return isinstance(error, EnvelopeError) and not isinstance(error, PayloadError)
