from __future__ import annotations

import pytest

from enginefarm.contract.errors import InvalidSpec
from enginefarm.wire.matrix import MAX_CELLS, cells


def test_every_combination_once() -> None:
    spec = {
        "model": "hf:a/b", "limits": {"max_batch_size": [1, 8], "max_input_len": 4},
        "platform": [{"sm": "90"}, {"sm": "80"}], "options": {"sizes": [[1, 2]]},
    }  # fmt: skip
    found = list(cells(spec))
    assert [(made["limits"], made["platform"]) for _, made in found] == [
        ({"max_batch_size": batch, "max_input_len": 4}, {"sm": sm}) for batch in (1, 8) for sm in ("90", "80")
    ]
    assert all(made["options"] == {"sizes": [1, 2]} for _, made in found), "a list in a list is a value"
    assert found[0][0] == {"/limits/max_batch_size": 1, "/platform": {"sm": "90"}, "/options/sizes": [1, 2]}
    assert spec["limits"] == {"max_batch_size": [1, 8], "max_input_len": 4}


def test_a_spec_without_lists_is_one_cell() -> None:
    assert list(cells({"model": "hf:a/b"})) == [({}, {"model": "hf:a/b"})]


@pytest.mark.parametrize(
    ("spec", "pointer", "code"),
    [
        ({"model": []}, "/model", "empty_axis"),
        ({"options": {"a/b": []}}, "/options/a~1b", "empty_axis"),
        ({"a": list(range(MAX_CELLS)), "b": [1, 2]}, "", "too_many_cells"),
        ({name: list(range(1000)) for name in "abcdefgh"}, "", "too_many_cells"),
    ],
)
def test_a_spec_that_makes_no_matrix_is_refused(spec: dict[str, object], pointer: str, code: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        next(cells(spec))
    assert [(problem.pointer, problem.code) for problem in refused.value.problems] == [(pointer, code)]
