"""Keys: frozen vectors, and what may and may not change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginefarm.contract.key import build_document, convert_document, key_of
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec, Parallelism, Precision

GOLDEN = json.loads((Path(__file__).parent / "golden_keys.json").read_text())

H100 = {
    "arch": "x86_64", "gpu": "NVIDIA H100 80GB HBM3", "sm": "90", "gpu_memory_gib": 80, "ecc": True, "cuda": "13.0",
    "driver": "580.159.04", "tensorrt": "10.13.3.9",
}  # fmt: skip
IDENTITY = {"source": "hf", "repo": "org/name", "commit": "a" * 40}
ALL = frozenset(Platform.model_fields)

specs = st.fixed_dictionaries(
    {"model": st.just("hf:org/name"), "toolchain": st.just({"name": "trtllm", "version": "1.2.1"})},
    optional={
        "precision": st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["auto", "float16", "bfloat16", "bf16", "half", "fp32"]),
                "quantization": st.sampled_from([None, "fp8", "int4_awq"]),
                "kv_cache": st.sampled_from([None, "fp8", "int8"]),
            },
        ),
        "parallelism": st.fixed_dictionaries({}, optional={name: st.integers(1, 8) for name in ("tp", "pp", "cp")}),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "max_batch_size": st.integers(1, 64),
                "max_input_len": st.integers(1, 9000),
                "max_output_len": st.integers(1, 9000),
                "max_num_tokens": st.none() | st.integers(1, 9000),
            },
        ),
        "options": st.dictionaries(
            st.sampled_from(["gemm_plugin", "paged_kv_cache"]), st.sampled_from(["auto", "enable"])
        ),
    },
)


def keys(spec: BuildSpec, platform: dict[str, Any] = H100) -> tuple[str, str]:
    """(convert, build) as the control plane makes them, all options being of build."""
    version = spec.toolchain.version or ""
    convert = key_of(
        convert_document(
            toolchain=spec.toolchain.name, version=version, model=IDENTITY, precision=spec.precision,
            parallelism=spec.parallelism, options={},
        )
    )  # fmt: skip
    bound = Platform(**platform).bound(ALL, "branch")
    build = build_document(
        convert=convert, toolchain=spec.toolchain.name, version=version, limits=spec.limits, options=spec.options,
        platform=bound,
    )  # fmt: skip
    return convert, key_of(build)


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_frozen_vectors(vector: dict[str, Any]) -> None:
    """A change here is a new document version, never an edit of the vectors."""
    assert key_of(vector["document"]) == vector["key"]


def test_the_vectors_are_what_the_code_makes() -> None:
    spec = BuildSpec.parse(GOLDEN[0]["spec"])
    assert keys(spec) == (GOLDEN[0]["key"], GOLDEN[1]["key"])


def shuffled(value: Any, draw: st.DataObject) -> Any:
    if isinstance(value, dict):
        order = draw.draw(st.permutations(list(value)))
        return {name: shuffled(value[name], draw) for name in order}
    return value


@given(specs, st.data())
def test_field_order_never_changes_a_key(data: dict[str, Any], draw: st.DataObject) -> None:
    assert keys(BuildSpec.parse(data)) == keys(BuildSpec.parse(shuffled(data, draw)))


@given(specs)
def test_written_out_defaults_never_change_a_key(data: dict[str, Any]) -> None:
    spec = BuildSpec.parse(data)
    assert keys(spec) == keys(BuildSpec.parse(spec.model_dump(mode="json")))


@given(specs, st.sampled_from(["bf16", "BF16", "torch.bfloat16"]))
def test_aliases_never_change_a_key(data: dict[str, Any], alias: str) -> None:
    plain = data | {"precision": data.get("precision", {}) | {"dtype": "bfloat16"}}
    aliased = data | {"precision": data.get("precision", {}) | {"dtype": alias}}
    assert keys(BuildSpec.parse(plain)) == keys(BuildSpec.parse(aliased))


@given(specs)
def test_either_length_gives_the_same_key(data: dict[str, Any]) -> None:
    spec = BuildSpec.parse(data)
    limits = {"max_input_len": spec.limits.max_input_len, "max_batch_size": spec.limits.max_batch_size,
              "max_num_tokens": spec.limits.max_num_tokens}  # fmt: skip
    by_output = BuildSpec.parse(data | {"limits": limits | {"max_output_len": spec.limits.max_output_len}})
    by_total = BuildSpec.parse(data | {"limits": limits | {"max_seq_len": spec.limits.max_seq_len}})
    assert keys(by_output) == keys(by_total) == keys(spec)


CHANGES: dict[str, dict[str, Any]] = {
    "dtype": {"precision": {"dtype": "float32"}},
    "quantization": {"precision": {"quantization": "w4a8_awq"}},
    "kv_cache": {"precision": {"kv_cache": "int4"}},
    "tp": {"parallelism": {"tp": 16}},
    "pp": {"parallelism": {"pp": 16}},
    "cp": {"parallelism": {"cp": 16}},
}


def merged(data: dict[str, Any], change: dict[str, Any]) -> BuildSpec:
    return BuildSpec.parse(data | {name: data.get(name, {}) | part for name, part in change.items()})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@given(data=specs)
def test_what_convert_depends_on_changes_both_keys(change: dict[str, Any], data: dict[str, Any]) -> None:
    before, after = BuildSpec.parse(data), merged(data, change)
    if before.precision == after.precision and before.parallelism == after.parallelism:
        return
    assert keys(before)[0] != keys(after)[0]
    assert keys(before)[1] != keys(after)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"limits": {"max_batch_size": 65}},
        {"limits": {"max_input_len": 9001}},
        {"limits": {"max_output_len": 9001}},
        {"limits": {"max_num_tokens": 9001}},
        {"limits": {"opt_num_tokens": 8}},
        {"limits": {"max_beam_width": 2}},
        {"options": {"use_fused_mlp": "enable"}},
    ],
    ids=str,
)
@given(data=specs)
def test_what_only_build_depends_on_leaves_the_checkpoint(change: dict[str, Any], data: dict[str, Any]) -> None:
    before, after = keys(BuildSpec.parse(data)), keys(merged(data, change))
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu", "NVIDIA L4"), ("sm", "89"), ("gpu_memory_gib", 94), ("mig", "1g.10gb"), ("ecc", False), ("cuda", "12.8"),
     ("driver", "570.1"), ("tensorrt", "10.9"), ("arch", "aarch64")],
)  # fmt: skip
def test_every_platform_field_changes_the_build_key_alone(field: str, value: object) -> None:
    spec = BuildSpec.parse(GOLDEN[0]["spec"])
    before, after = keys(spec), keys(spec, H100 | {field: value})
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_driver_of_the_same_branch_is_the_same_platform_unless_exact() -> None:
    ours, theirs = Platform(**H100), Platform(**(H100 | {"driver": "580.95.05"}))
    assert ours.bound(ALL, "branch") == theirs.bound(ALL, "branch")
    assert ours.bound(ALL, "exact") != theirs.bound(ALL, "exact")


def test_a_checkpoint_for_one_sm_has_a_document_of_its_own_version() -> None:
    vector = next(vector for vector in GOLDEN if vector["name"].endswith("laid out for SM 90"))["document"]
    fields: Any = {
        "toolchain": "trtllm", "version": "1.0.0", "model": vector["model"], "options": {},
        "precision": Precision(**vector["precision"]), "parallelism": Parallelism(**vector["parallelism"]),
    }  # fmt: skip
    assert convert_document(**fields, sm="90") == vector
    shared, hopper, ampere = (key_of(convert_document(**fields, sm=sm)) for sm in (None, "90", "80"))
    assert len({shared, hopper, ampere}) == 3


def test_two_models_have_two_keys() -> None:
    spec = BuildSpec.parse(GOLDEN[0]["spec"])
    other = convert_document(
        toolchain="trtllm", version="1.2.1", model=IDENTITY | {"commit": "b" * 40}, precision=spec.precision,
        parallelism=spec.parallelism, options={},
    )  # fmt: skip
    assert key_of(other) != keys(spec)[0]


def test_calibration_data_are_in_the_document_only_if_there_are_any() -> None:
    vector = next(vector for vector in GOLDEN if vector["name"] == "convert, trtllm, calibrated on data")["document"]
    named = ("toolchain", "calibration", "document")
    given = {name: value for name, value in vector.items() if name not in named} | {
        "toolchain": "trtllm", "version": "1.2.1",
        "precision": Precision(**vector["precision"]), "parallelism": Parallelism(**vector["parallelism"]),
    }  # fmt: skip
    assert convert_document(**given, calibration=vector["calibration"]) == vector
    plain = convert_document(**given)
    assert plain == {name: value for name, value in vector.items() if name != "calibration"}
