"""The house: imports run one way, extras stay optional, and everything public has a docstring."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import mongo_envelope

ROOT = Path(__file__).parent.parent
MODULES = ["mongo_envelope", *(found.name for found in pkgutil.walk_packages(mongo_envelope.__path__, "mongo_envelope."))]
#: What only extras and development bring.
OPTIONAL = (
    *("rich", "faker", "pycurl", "fiftyone", "hypothesis", "pytest", "email_validator", "motor", "numpy", "pandas", "polars"),
    *("beanie", "matplotlib", "psutil", "pymongocrypt", "typer"),
)

BLOCKING = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_imports_run_one_way() -> None:
    """The contracts of import-linter in pyproject.toml hold."""
    ran = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("module", ["mongo_envelope", "mongo_envelope.embedded"])
def test_import_needs_no_extra(module: str) -> None:
    """The package imports, and seals, where nothing but its three dependencies is installed."""
    program = BLOCKING + f"import {module}; from mongo_envelope import KeyRing; KeyRing.generate(); print('ok')"
    ran = run("-W", "error", "-c", program)
    assert ran.stdout == "ok\n", ran.stderr


def test_import_is_silent_and_starts_nothing() -> None:
    """Importing writes nothing, starts no thread and leaves `embedded` alone until it is asked for."""
    program = """if True:
        import sys, threading, mongo_envelope
        assert threading.active_count() == 1
        assert "mongo_envelope.embedded" not in sys.modules
    """
    ran = run("-W", "error", "-c", program)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_all_is_sorted_and_complete() -> None:
    """``__all__`` names every public name of the package, in order, and nothing else."""
    public = {
        name for name, value in vars(mongo_envelope).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert mongo_envelope.__all__ == sorted(mongo_envelope.__all__)
    assert set(mongo_envelope.__all__) == public


def test_every_error_is_public() -> None:
    """Whatever the package raises can be caught by a name that it exports."""
    errors = import_module("mongo_envelope.errors")
    assert set(errors.__all__) <= set(mongo_envelope.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_what_it_exports(module: str) -> None:
    """Each module has a docstring, and an ``__all__`` without a name twice or a name that is not there."""
    found = import_module(module)
    assert found.__doc__
    assert len(found.__all__) == len(set(found.__all__))
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def documented() -> Iterator[tuple[str, object]]:
    """Each public function and class of each module, and each public method and property defined there."""
    for module in map(import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            yield f"{module.__name__}.{name}", value
            for attribute, member in vars(value).items() if inspect.isclass(value) else ():
                member = getattr(member, "__func__", member)  # noqa: PLW2901 - of a classmethod or staticmethod
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{module.__name__}.{name}.{attribute}", member


def test_everything_public_has_a_docstring() -> None:
    """A class, function, method or property without a docstring is listed here by name."""
    assert [name for name, value in documented() if not (value.__doc__ or "").strip()] == []


@pytest.mark.parametrize("sync", ["Repository", "Cursor", "BulkWriter", "ChangeStream"])
def test_both_drivers_offer_the_same_names_and_parameters(sync: str) -> None:
    """Repositories, cursors, writers and streams: they differ in awaiting and in the type of the session, and in nothing else."""
    ours, theirs = getattr(mongo_envelope, sync), getattr(mongo_envelope, "Async" + sync)

    def shape(cls: type) -> dict[str, list[tuple[str, object, object]]]:
        methods = inspect.getmembers(cls, inspect.isfunction)
        return {
            name: [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
            for name, method in methods
            if not name.startswith("_")
        }

    assert shape(ours) == shape(theirs)
