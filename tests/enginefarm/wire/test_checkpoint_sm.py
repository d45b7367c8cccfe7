"""The record of an engine must not pass a checkpoint off that is laid out for another SM."""

from __future__ import annotations

import pytest

from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.key import build_document, convert_document, key_of
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_binding import require_bound
from tests.enginefarm.farm_double import H100, MODEL, NOW

SPEC = BuildSpec.parse(
    {
        "model": MODEL,
        "toolchain": {"name": "trtllm", "version": "1.0.0"},
        "precision": {"dtype": "float16", "quantization": "int8_wo"},
        "limits": {"max_input_len": 64, "max_output_len": 64},
    }
)


def engine(sm: str | None) -> Engine:
    """An engine for an H100 whose checkpoint is laid out for this SM."""
    repo, _, commit = MODEL.removeprefix("hf:").partition("@")
    checkpoint = convert_document(
        toolchain="trtllm", version="1.0.0", model={"source": "hf", "repo": repo, "commit": commit},
        precision=SPEC.precision, parallelism=SPEC.parallelism, options={}, sm=sm,
    )  # fmt: skip
    bound = H100.bound(frozenset({"gpu", "sm"}), "branch")
    document = build_document(
        convert=key_of(checkpoint), toolchain="trtllm", version="1.0.0", limits=SPEC.limits, options={}, platform=bound
    )
    return Engine(
        key=key_of(document), model=MODEL, toolchain="trtllm", version="1.0.0", platform=H100, size=0, files=0,
        manifest="sha256:" + "0" * 64, created_at=NOW, spec=SPEC.model_dump(mode="json"), document=document,
        checkpoint_document=checkpoint, bound_to=bound, driver_binding="branch", contents=[],
    )  # fmt: skip


@pytest.mark.parametrize("sm", [None, "90"])
def test_a_checkpoint_for_every_gpu_or_for_this_one_is_accepted(sm: str | None) -> None:
    require_bound(engine(sm))


def test_a_checkpoint_for_another_sm_is_refused() -> None:
    with pytest.raises(
        IntegrityError, match=r"checkpoint_document\.platform\.sm is '80', but its key was made with '9"
    ):
        require_bound(engine("80"))


def test_the_fields_of_a_checkpoint_for_one_sm_are_compared_as_others() -> None:
    changed = engine("90")
    changed = changed.model_copy(update={"spec": changed.spec | {"parallelism": {"tp": 8, "pp": 1, "cp": 1}}})
    with pytest.raises(IntegrityError, match="parallelism"):
        require_bound(changed)
