"""Parsing JSON that somebody else wrote, and the parsers of the contract on random input."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from enginefarm.contract.bounded import MAX_DEPTH, Count, is_plain_text, parse_json
from enginefarm.contract.errors import InvalidRequest, InvalidSpec, Problem
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.platform import Platform, PlatformSelector
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.matrix import MAX_CELLS, cells
from models.catalogue.pagination import from_cursor, from_time_cursor, to_time_cursor

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    [*BuildSpec.model_fields, *PlatformSelector.model_fields, "max_batch_size", "max_seq_len", "tp"]
)
_SPECS = st.dictionaries(_FIELDS, _JSON | st.dictionaries(_FIELDS, _JSON, max_size=4), max_size=5)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[1,{"a":', b"}]")])
def test_json_may_have_as_many_levels_as_the_bound_says(opening: bytes, closing: bytes) -> None:
    levels = 2 if b"[" in opening and b"{" in opening else 1
    assert parse_json(nested(MAX_DEPTH // levels, opening, closing))
    for depth in (MAX_DEPTH // levels + 1, 500, 200_000):
        with pytest.raises(json.JSONDecodeError, match="nested more than 64 levels deep"):
            parse_json(nested(depth, opening, closing))


def test_brackets_in_texts_and_in_a_row_are_no_levels() -> None:
    assert len(parse_json(json.dumps(["[" * 1000, *[[]] * 1000]).encode())) == 1001


@pytest.mark.parametrize("content", [b"\xff", b"", b"{", b"1" * 5000, b'"\xed\xa0\x80"', "{}".encode("utf-16")])
def test_what_is_no_json_is_refused_by_one_error(content: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(content)


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_json(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("value", [["\0"], {"a": {"\ud800": 1}}, [[["a\udfff"]]]])
def test_text_that_no_database_stores_is_found_at_every_level(value: Any) -> None:
    assert not is_plain_text(value)
    assert is_plain_text(
        json.loads(json.dumps(value).replace("\\u0000", "").replace("\\ud800", "").replace("\\udfff", ""))
    )


@pytest.mark.parametrize("value", [1e16, -1e300, {"a": [1e308]}, 2**53, float("nan"), "\0", [[["\ud800"]]]])
def test_an_option_must_be_exact_in_every_json_reader(value: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        BuildSpec.parse({"model": "hf:a/b", "toolchain": {"name": "aoti"}, "options": {"x": value}})
    [problem] = caught.value.problems
    assert (problem.pointer, problem.code) == ("/options/x", "not_portable")


@settings(max_examples=150, derandomize=True, deadline=None)
@given(_SPECS)
def test_every_document_is_a_spec_or_is_refused_with_problems_that_can_be_sent(document: dict[str, Any]) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        spec = BuildSpec.parse({"model": "hf:a/b", "toolchain": {"name": "aoti"}, **document})
        assert BuildSpec.parse(spec.model_dump(mode="json")) == spec
    except InvalidSpec as error:
        problems = error.problems
    for problem in problems:
        # As the API sends them: JSON without NaN, in UTF-8.
        json.dumps(problem.model_dump(mode="json"), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(list(PlatformSelector.model_fields)), _JSON, max_size=6))
def test_every_platform_has_a_short_label_or_is_refused(document: dict[str, Any]) -> None:
    try:
        platform = Platform.model_validate({"arch": "x86_64", "sm": "90", "gpu": "x" * 128, **document})
    except ValueError:
        return
    assert len(platform.label()) <= 100


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(st.characters(codec=None)) | st.from_regex(r"(hf|file|s3):/{0,2}[^ ]{0,40}"))
def test_every_text_is_a_reference_or_is_refused(text: str) -> None:
    try:
        reference = model_reference.parse(text)
    except ValueError as error:
        str(error).encode()  # it can be sent
    else:
        assert model_reference.parse(str(reference)) == reference


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(st.characters(codec=None)) | st.text("ABCDEFMNOabc012=-_"))
def test_every_text_is_a_cursor_or_is_refused(text: str) -> None:
    try:
        assert 0 <= from_cursor(text) < 2**63
    except InvalidRequest as error:
        error.detail.encode()
    try:
        assert to_time_cursor(*from_time_cursor(text))
    except InvalidRequest as error:
        error.detail.encode()


@settings(max_examples=150, derandomize=True, deadline=None)
@given(_SPECS)
def test_every_matrix_has_few_cells_or_is_refused(document: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidSpec):
        assert len(list(cells(document))) <= MAX_CELLS


def test_a_count_may_be_written_with_a_point() -> None:
    counts: TypeAdapter[int] = TypeAdapter(Count)
    assert repr(counts.validate_json("8.0")) == "8"
    for value in ("8.5", "false", '"8"', "1e400", "-1.0"):
        with pytest.raises(ValidationError):
            counts.validate_json(value)
