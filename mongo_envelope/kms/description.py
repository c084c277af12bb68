"""A key-encryption key from its description, which is what a service or a command is configured with.

    file:kek.json            LocalKMS.from_file, also keyring:service/name and env:NAME
    kms.json, kms.toml       a file: {"provider": "vault", "url": "https://…", "key": "customers", "token": "env:VAULT_TOKEN"}

The other names in such a file are the parameters of the provider's class. A text "env:NAME" in it, at any depth, is what that
environment variable holds, so that no secret has to stand in the file.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mongo_envelope.errors import ConfigurationError

from . import KMS

__all__ = ["configured"]

#: provider → its class, and whether the provider is the first parameter of that
_CLASSES: Final = {
    "aws": ("MongoCryptKMS", True),
    "azure": ("MongoCryptKMS", True),
    "gcp": ("MongoCryptKMS", True),
    "kmip": ("MongoCryptKMS", True),
    "pkcs11": ("PKCS11KMS", False),
    "vault": ("VaultKMS", False),
}
_FORMS: Final = 'file:kek.json, env:NAME, keyring:service/name, or the path of a JSON or TOML file with a "provider"'


def configured(description: str | os.PathLike[str] | Mapping[str, Any], *, create: bool = False) -> KMS:
    """The key-encryption key that is described: in one of the short forms, by the path of a JSON or TOML file, or as a mapping.

    ``kms.configured("file:kek.json")``, ``kms.configured("kms.toml")``. Relative paths are those of the process. ``create``:
    make the key if it is not there; one in a file, a keyring or an HSM. Raise `ConfigurationError`, which shows no value.
    """
    if isinstance(description, str):
        if description.lstrip().startswith("{"):
            raise ConfigurationError("a key-encryption key is described by the name of a file, and this is its content, it seems")
        kind, colon, rest = description.partition(":")
        if colon and kind in _LOCAL:
            return _LOCAL[kind](rest, create=create)
    if isinstance(description, Mapping):
        what, read = "the description of the key-encryption key", lambda: description
    else:
        path = Path(description)
        what, read = f"the file {str(path)!r}, which describes the key-encryption key,", lambda: _read(path)
    made = _made(read, create=create)
    if isinstance(made, str):
        raise ConfigurationError(f"{what} {made}")
    return made


# --- on this machine ----------------------------------------------------------------------------------------------------


def _from_file(path: str, *, create: bool) -> KMS:
    return _local().from_file(path, create=create)  # type: ignore[no-any-return]  # the module is loaded by name


def _from_env(name: str, *, create: bool) -> KMS:
    if create:
        raise ConfigurationError(f"an environment variable is not made: put a key into {name}. file:kek.json makes one in a file")
    return _local().from_env(name)  # type: ignore[no-any-return]  # the module is loaded by name


def _from_keyring(entry: str, *, create: bool) -> KMS:
    service, slash, name = entry.rpartition("/")
    if not (service and slash and name):
        raise ConfigurationError("an entry of the keyring has a service and a name: keyring:mongo-envelope/kek")
    return _local().from_keyring(service, name, create=create)  # type: ignore[no-any-return]  # the module is loaded by name


def _local() -> Any:
    return _class("LocalKMS")


_LOCAL: Final[Mapping[str, Callable[..., KMS]]] = {"file": _from_file, "env": _from_env, "keyring": _from_keyring}


# --- elsewhere ----------------------------------------------------------------------------------------------------------


class _UnfitError(Exception):
    """What is wrong, without any value: it never leaves this module."""


def _made(read: Callable[[], Mapping[str, Any]], *, create: bool) -> KMS | str:
    """The key, or what is wrong with its description.

    Nothing is raised from here: a traceback would keep this frame, and with it the credentials, for whoever collects variables.
    """
    try:
        return _made_of(read(), create=create)
    except _UnfitError as error:
        return str(error)
    except ConfigurationError as error:
        return f"does not fit: {error}"


def _made_of(described: Mapping[str, Any], *, create: bool) -> KMS:
    options = dict(described)
    provider = options.pop("provider", None)
    name, is_named = _CLASSES.get(provider.partition(":")[0] if isinstance(provider, str) else "", (None, False))
    if name is None:
        raise _UnfitError(
            f'names no provider that there is: "provider" is one of {", ".join(_CLASSES)}. For a key on this machine: {_FORMS}'
        )
    made = _class(name)
    signature = inspect.signature(made)
    if create:
        if "create" not in signature.parameters:
            raise _UnfitError(f"is of {provider}, where a key-encryption key is made by that service's own means")
        options["create"] = True
    if unknown := [each for each in options if each not in signature.parameters]:
        raise _UnfitError(f"has unknown names: {', '.join(map(str, unknown))}. There are {', '.join(signature.parameters)}")
    if is_named:
        options = {"provider": provider, **options}
    missing = [
        each.name for each in signature.parameters.values() if each.default is inspect.Parameter.empty and each.name not in options
    ]
    if missing:
        raise _UnfitError(f"lacks {', '.join(missing)}")
    return made(**_resolved(options))  # type: ignore[no-any-return]  # the module is loaded by name


def _class(name: str) -> Any:
    return getattr(importlib.import_module("mongo_envelope.kms"), name)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}. A key-encryption key is {_FORMS}"
    except ValueError:  # not UTF-8, or a NUL in the path
        problem = "is no text"
    else:
        try:
            found = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
        except (ValueError, RecursionError):  # their texts may quote what they read
            found = None
        if isinstance(found, dict):
            return found
        problem = f"is not {'TOML' if path.suffix == '.toml' else 'a JSON object'}"
    raise _UnfitError(problem)


def _resolved(value: Any) -> Any:
    """With what the environment holds in the place of each "env:NAME"."""
    if isinstance(value, Mapping):
        return {name: _resolved(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    if isinstance(value, str) and value.startswith("env:"):
        name = value.removeprefix("env:")
        if name not in os.environ:
            raise _UnfitError(f"names the environment variable {name}, which is not set")
        return os.environ[name]
    return value
