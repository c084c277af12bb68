"""What the providers have in common: libraries that may not be installed, and what becomes of an error of theirs."""

from __future__ import annotations

import importlib
from types import ModuleType

from mongo_envelope.errors import ConfigurationError

__all__ = ["extra"]


def extra(module: str, name: str) -> ModuleType:
    """A module of an optional dependency. Raise `ConfigurationError`, which names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pass
    raise ConfigurationError(f'{module.partition(".")[0]} is not installed: pip install "mongo-envelope[{name}]"')
