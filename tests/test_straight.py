"""Functions that are written out: of constants and numbered names, and of nothing that is a user's."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import BaseModel, create_model

from mongo_envelope import DocumentCodec, KeyRing, Queryable
from mongo_envelope.straight import function

KEYS = KeyRing.generate()


def test_a_function_knows_the_names_that_it_is_given() -> None:
    names = {"two": 2}
    double = function("double", "def double(value):\n    return two * value\n", names)
    assert double(21) == 42
    assert names == {"two": 2}


def test_keys_go_with_what_was_compiled_for_them() -> None:
    """Nothing stands in a circle: they do not wait for a collection of garbage."""
    codec: DocumentCodec[Any] | None = DocumentCodec(create_model("Gone", id=(int, ...), secret=(str, "s")), keys=KEYS, context="c")
    one = codec.schema.model(id=1)
    assert codec.open(codec.seal_bson(one)) == one
    held = [weakref.ref(each) for each in (codec, codec._fast, codec._fast.open, codec._writer, *codec._writer._compiled.values())]
    assert len(held) == 5
    gc.collect()
    gc.disable()
    try:
        codec = None
        assert [each() for each in held] == [None] * 5
    finally:
        gc.enable()


def test_no_name_of_a_user_becomes_source() -> None:
    """Whatever fields are called: quotes, percent signs and code in a name are a name."""
    odd = "x%b\\'\"); raise SystemExit(1) #"
    fields: dict[str, Any] = {"id": (UUID, ...), "text": (Annotated[str, Queryable(name=odd)], ...), "secret": (str, "s")}
    model: type[BaseModel] = create_model("Odd", **fields)
    codec = DocumentCodec(model, keys=KEYS, context="c")
    one = model(id=uuid4(), text="plain")
    assert codec.open_bson(codec.seal_bson(one))[2] == one
    [sealing] = codec._writer._compiled
    sources = [codec._fast.source, codec._writer._written_out(dict(zip(codec._writer._fields, sealing, strict=True)))[0]]
    for source in sources:
        assert "SystemExit" not in source
        assert "text" not in re.findall(r"\w+", source)
    assert codec._fast.open(codec.seal_bson(one)) is not None
    assert codec.open(codec.seal_bson(one)) == one
