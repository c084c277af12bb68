"""errors: the tree is the one that is drawn, and an error can say which document it is about."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mongo_envelope import errors
from mongo_envelope.errors import EnvelopeError, IntegrityError, MongoEnvelopeError, UnknownKeyError, shortened

RESULTS = {"SaveResult", "UpdateResult"}
BRANCH = re.compile(r"^ {4}(?P<indent>(?:│   |    )*)(?P<fork>├── |└── )?(?P<name>[A-Z]\w+)")


def drawn() -> dict[str, str | None]:
    """Each error in the docstring's drawing, with the one that it hangs from."""
    parents: dict[str, str | None] = {}
    above: list[str] = []
    for found in filter(None, map(BRANCH.match, (errors.__doc__ or "").splitlines())):
        depth = len(found["indent"]) // 4 + bool(found["fork"])
        del above[depth:]
        parents[found["name"]] = above[-1] if above else None
        above.append(found["name"])
    return parents


def coded() -> dict[str, str | None]:
    """Each public error of the module, with its nearest public parent."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    return {
        each.__name__: next((base.__name__ for base in each.__mro__[1:-3] if not base.__name__.startswith("_")), None)
        for each in found
        if not each.__name__.startswith("_")
    }


def test_the_tree_in_code_is_the_tree_as_drawn() -> None:
    """Every error hangs where the module's docstring draws it, and no other error exists."""
    assert len(drawn()) == 18
    assert coded() == drawn()


def test_all_names_are_exported() -> None:
    """``__all__`` holds the errors of the tree, the results that an error can have, and nothing else."""
    assert sorted(errors.__all__) == errors.__all__
    assert set(errors.__all__) == {*drawn(), *RESULTS}


def test_every_error_has_the_one_root() -> None:
    """``except MongoEnvelopeError`` catches every error of the package."""
    assert all(issubclass(getattr(errors, name), MongoEnvelopeError) for name in {*errors.__all__} - RESULTS)


def test_wrong_and_could_not_check_are_apart() -> None:
    """No error says both that a document is wrong and that it could not be checked."""
    assert not issubclass(UnknownKeyError, EnvelopeError)
    assert not issubclass(EnvelopeError, errors.KeyUnavailableError)


def test_an_error_without_a_document_prints_its_sentence_alone() -> None:
    """Before `about` there is nothing but the sentence."""
    error = IntegrityError("edited")
    assert (str(error), error.document_id, error.collection) == ("edited", None, None)


def test_about_says_which_document() -> None:
    """`about` gives the same error back, and it then prints the collection and the repr of the ``_id``."""
    error = IntegrityError("edited")
    assert error.about(document_id="a'b", collection="customers") is error
    assert error.document_id == repr("a'b")
    assert str(error) == """edited [collection customers, _id "a'b"]"""
    assert error.args == ("edited",)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ({"document_id": 1}, {"document_id": 2}, "x [_id 1]"),
        ({"collection": "a"}, {"collection": "b"}, "x [collection a]"),
        ({"document_id": 1}, {"collection": "b"}, "x [collection b, _id 1]"),
        ({}, {"document_id": 0}, "x [_id 0]"),
        ({"document_id": None}, {"document_id": None}, "x"),
    ],
)
def test_who_says_it_first_is_believed(first: dict[str, object], second: dict[str, object], text: str) -> None:
    """The room nearest to the document knows best: what is known already stays."""
    assert str(UnknownKeyError("x").about(**first).about(**second)) == text


def test_what_is_about_one_error_is_about_no_other() -> None:
    """The document is noted on the instance, not on the class."""
    IntegrityError("x").about(document_id=1, collection="c")
    assert str(IntegrityError("y")) == "y"


@settings(deadline=None)
@given(st.text(max_size=100) | st.binary(max_size=100) | st.integers())
def test_an_id_is_cut_at_64_characters(value: object) -> None:
    """An ``_id`` stands in a message by its repr: whole up to 64 characters, and otherwise 61 of them and three dots."""
    text = repr(value)
    expected = text if len(text) <= 64 else text[:61] + "..."
    assert shortened(value) == expected
    assert IntegrityError("x").about(document_id=value).document_id == expected
    assert len(expected) <= 64
