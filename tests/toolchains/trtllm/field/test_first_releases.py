"""Each architecture is accepted by its first release and refused by the one before, which names the first.

The first releases are those of NVIDIA's release notes and of MODEL_MAP (`data/model_families.json` has the sources).
"""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import H100, facts, spec
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.model_family import family_names, find_family
from toolchains.trtllm.releases.release import all_releases, first_release

OLDEST_FIRST = [release.version for release in reversed(all_releases())]
FIRST = {name: first for name in family_names() if (first := first_release(name)) is not None}


def problem_codes(version: str, architecture: str) -> dict[str, str]:
    """Code → text of the findings about the model itself, for a spec that asks for nothing else."""
    model = facts(architecture=architecture)
    normal, _ = TOOLCHAIN.normalise(spec(version, options={}), model, H100)
    return {
        problem.code: f"{problem.detail} {problem.remedy}"
        for problem in TOOLCHAIN.preflight(normal, model, H100)
        if problem.pointer == "/model"
    }


@pytest.mark.parametrize("architecture", FIRST)
def test_an_architecture_begins_with_its_first_release(architecture: str) -> None:
    first = FIRST[architecture]
    assert problem_codes(first, architecture) == {}
    position = OLDEST_FIRST.index(first)
    if position:
        refused = problem_codes(OLDEST_FIRST[position - 1], architecture)
        assert refused.keys() == {"architecture"}
        assert f"{first} is the first release" in refused["architecture"]
        assert f"build with {first} or newer" in refused["architecture"]


def test_the_first_release_is_the_one_that_the_family_states() -> None:
    """A family without a script in that release would begin later than its sources say."""
    for architecture, first in FIRST.items():
        family = find_family(architecture)
        assert family is not None
        assert family.architectures[architecture] == first


@pytest.mark.parametrize(
    ("architecture", "version"),
    [
        ("Qwen2ForCausalLM", "0.10.0"), ("Qwen2ForCausalLM", "0.12.0"), ("Qwen2MoeForCausalLM", "0.11.0"),
        ("Gemma2ForCausalLM", "0.13.0"), ("InternLM2ForCausalLM", "0.11.0"), ("DbrxForCausalLM", "0.10.0"),
        ("ChatGLMModel", "0.8.0"), ("ChatGLMModel", "0.14.0"), ("ExaoneForCausalLM", "0.12.0"),
        ("DeepseekForCausalLM", "0.14.0"), ("DeepseekV2ForCausalLM", "0.15.0"), ("CohereForCausalLM", "0.15.0"),
        ("MllamaForConditionalGeneration", "0.15.0"), ("DeciLMForCausalLM", "0.14.0"),
        ("T5ForConditionalGeneration", "0.10.0"), ("BartForConditionalGeneration", "0.12.0"),
        ("Mamba2ForCausalLM", "0.14.0"), ("FalconForCausalLM", "0.8.0"), ("GPTJForCausalLM", "0.8.0"),
        ("MPTForCausalLM", "0.8.0"), ("BaichuanForCausalLM", "0.8.0"), ("InternLMForCausalLM", "0.8.0"),
        ("Gemma3ForCausalLM", "0.19.0"), ("Gemma3ForCausalLM", "1.0.0"), ("Qwen3ForCausalLM", "1.0.0"),
        ("Qwen3ForCausalLM", "1.2.1"), ("Qwen3MoeForCausalLM", "1.0.0"), ("GraniteForCausalLM", "1.0.0"),
        ("MptForCausalLM", "1.0.0"), ("ChatGLMForConditionalGeneration", "1.0.0"), ("Phi4MMForCausalLM", "0.19.0"),
    ],
)  # fmt: skip
def test_a_release_has_the_architectures_of_its_notes(architecture: str, version: str) -> None:
    assert problem_codes(version, architecture) == {}


@pytest.mark.parametrize(
    ("architecture", "version", "form"),
    [
        ("MambaForCausalLM", "0.8.0", "state-spaces/mamba-2.8b"),
        ("NemotronForCausalLM", "0.10.0", "NeMo file"),
        ("JAISLMHeadModel", "0.11.0", "name of its directory"),
    ],
)
def test_a_model_that_earlier_releases_take_in_another_form_says_which(
    architecture: str, version: str, form: str
) -> None:
    assert form in problem_codes(version, architecture)["architecture"]


@pytest.mark.parametrize(
    ("architecture", "version"),
    [("GptOssForCausalLM", "1.2.1"), ("Llama4ForConditionalGeneration", "1.0.0"), ("DeepseekV3ForCausalLM", "1.2.1")],
)
def test_a_model_of_the_pytorch_backend_stays_refused(architecture: str, version: str) -> None:
    assert "PyTorch backend alone" in problem_codes(version, architecture)["architecture"]
