from __future__ import annotations

import pytest

from enginefarm.contract.errors import InvalidSpec
from tests.toolchains.trtllm.build_contexts import FACTS, H100, spec
from toolchains.registry import all_toolchains
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases, find_release


def test_the_toolchain_is_registered_under_its_name() -> None:
    assert all_toolchains()["trtllm"] is TOOLCHAIN


def test_releases_are_listed_newest_first() -> None:
    versions = [release.version for release in TOOLCHAIN.releases()]
    assert versions[0] == "1.3.0rc20"
    stable = [version for version in versions if version.replace(".", "").isdigit()]
    assert stable == [
        *("1.2.1", "1.2.0", "1.1.0", "1.0.0", "0.21.0", "0.20.0", "0.19.0", "0.18.2", "0.18.1", "0.18.0", "0.17.0"),
        *("0.16.0", "0.15.0", "0.14.0", "0.13.0", "0.12.0", "0.11.0", "0.10.0", "0.9.0", "0.8.0"),
    ]


@pytest.mark.parametrize("release", all_releases(), ids=lambda release: release.version)
def test_no_option_belongs_to_both_stages(release: ReleaseDescriptor) -> None:
    """A name in both would enter both keys, and the wrong one."""
    assert not TOOLCHAIN.convert_options & set(release.build_options)
    for architecture in release.architectures:
        assert set(release.convert_options(architecture)) <= TOOLCHAIN.convert_options


def test_an_unknown_release_is_refused_with_a_list_of_the_known_ones() -> None:
    with pytest.raises(InvalidSpec) as caught:
        TOOLCHAIN.normalise(spec("0.1.0"), FACTS, H100)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/toolchain/version", "unknown_release")
    assert "1.2.1" in (problem.expected or "")


@pytest.mark.parametrize(
    ("version", "architecture", "script"),
    [
        ("0.8.0", "MixtralForCausalLM", "llama/convert_checkpoint.py"),
        ("0.8.0", "Qwen2ForCausalLM", None),
        ("0.10.0", "Gemma2ForCausalLM", None),  # younger than the release
        ("0.16.0", "FalconForCausalLM", "falcon/convert_checkpoint.py"),
        ("1.2.1", "FalconForCausalLM", "models/contrib/falcon/convert_checkpoint.py"),
        ("0.8.0", "BloomForCausalLM", "bloom/convert_checkpoint.py"),
        ("0.8.0", "InternLMForCausalLM", "internlm/convert_checkpoint.py"),
        ("0.9.0", "InternLMForCausalLM", "llama/convert_checkpoint.py"),
        ("0.10.0", "OPTForCausalLM", "opt/convert_checkpoint.py"),
        ("0.9.0", "MambaForCausalLM", None),  # of that time, it reads the form of state-spaces and not transformers'
        ("0.9.0", "MambaLMHeadModel", "mamba/convert_checkpoint.py"),
        ("0.10.0", "MambaLMHeadModel", None),
        ("0.10.0", "MambaForCausalLM", "mamba/convert_checkpoint.py"),
        ("0.14.0", "NemotronForCausalLM", None),  # as a NeMo file only
        ("1.0.0", "MambaForCausalLM", "models/core/mamba/convert_checkpoint.py"),
        ("0.20.0", "ChatGLMModel", "models/core/glm-4-9b/convert_checkpoint.py"),
        ("0.16.0", "Grok1ModelForCausalLM", None),
        ("0.9.0", "T5ForConditionalGeneration", None),
        ("0.10.0", "T5ForConditionalGeneration", "enc_dec/convert_checkpoint.py"),
        ("1.2.1", "MBartForConditionalGeneration", "models/core/enc_dec/convert_checkpoint.py"),
        ("0.10.0", "WhisperForConditionalGeneration", None),
        ("0.11.0", "WhisperForConditionalGeneration", "whisper/convert_checkpoint.py"),
        ("1.2.1", "WhisperForConditionalGeneration", "models/core/whisper/convert_checkpoint.py"),
        ("0.19.0", "Phi3ForCausalLM", "phi/convert_checkpoint.py"),
        ("0.20.0", "Phi3ForCausalLM", "models/core/phi/convert_checkpoint.py"),
        ("1.3.0rc20", "DeepseekV2ForCausalLM", "models/contrib/deepseek_v2/convert_checkpoint.py"),
        ("1.2.1", "DeepseekV3ForCausalLM", None),
        ("1.2.1", "GptOssForCausalLM", None),
        ("1.0.0", "Llama4ForConditionalGeneration", None),
    ],
)
def test_an_architecture_has_the_script_that_is_proven_for_it(
    version: str, architecture: str, script: str | None
) -> None:
    actual = find_release(version).script_for(architecture)
    assert (actual and actual.script) == script


@pytest.mark.parametrize("release", all_releases(), ids=lambda release: release.version)
def test_release_notes_state_how_sure_the_options_are(release: ReleaseDescriptor) -> None:
    notes = {release.version: release.notes for release in TOOLCHAIN.releases()}
    assert f"({release.source.sure})" in (notes[release.version] or "")
