"""README and docs: every code sample runs, and every file that is named is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

import mongo_envelope

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "spec" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def samples(page: Path) -> list[str]:
    """The Python code blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> list[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    )
    return [re.sub(r"[^\w -]", "", heading).replace(" ", "-").lower() for heading in headings]


def test_the_first_sample_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    """As a newcomer would paste it into a file: it prints the customer and what a thief sees."""
    script = tmp_path / "sample.py"
    script.write_text(samples(ROOT / "README.md")[0])
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    seen, stolen = done.stdout.splitlines()
    assert "ada@example.com" in seen
    assert "acme" in stolen
    assert "ada@example.com" not in stolen
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_the_other_samples_of_the_readme_run_one_after_the_other(
    client: MongoClient[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the names of the first, and a collection of a server that is still there."""
    first, *others = samples(ROOT / "README.md")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {name: getattr(mongo_envelope, name) for name in mongo_envelope.__all__}
    exec(compile(first, "README.md, first sample", "exec", dont_inherit=True), namespace)
    namespace["customers"] = mongo_envelope.Repository(
        namespace["Customer"], client[f"readme_{id(namespace)}"].customers, keys=namespace["keys"]
    )
    namespace["client"] = client  # that of the first sample is closed by now
    for number, sample in enumerate(others, 2):
        exec(compile(sample, f"README.md, sample {number}", "exec", dont_inherit=True), namespace)
    assert "Customer.email is sensitive" in capsys.readouterr().out
    client.drop_database(f"readme_{id(namespace)}")
    client.drop_database("crm")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "docs" and samples(page)], ids=lambda page: page.name
)
def test_the_samples_of_a_page_are_one_program(
    client: MongoClient[Any], page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom, with a ``client`` to begin with, in an empty folder, and without an environment that would interfere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGODB_URI", raising=False)
    there = set(client.list_database_names())
    namespace: dict[str, Any] = {"__name__": page.stem, "client": client}
    try:
        for number, sample in enumerate(samples(page), 1):
            exec(compile(sample, f"{page.name}, sample {number}", "exec", dont_inherit=True), namespace)
    finally:
        for name in set(client.list_database_names()) - there:
            client.drop_database(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    """Relative links, in README and docs; and to a heading of it, if they name one."""
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def test_the_error_tree_of_the_readme_names_every_error() -> None:
    """And no other."""
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b\w+Error\b", text))
    assert named == {name for name in mongo_envelope.__all__ if name.endswith("Error")}
