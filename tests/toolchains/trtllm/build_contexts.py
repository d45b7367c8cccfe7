"""The seed spec, the model and the machine that it is for, and generated specs around it."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from enginefarm.contract.model.facts import ModelFacts, Stack
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec, Parallelism, Precision
from toolchains.trtllm.context.conversion import Conversion, find_conversion
from toolchains.trtllm.releases.draft_heads import available_modes
from toolchains.trtllm.releases.model_family import family_names
from toolchains.trtllm.releases.release import Script, all_releases, find_release

VERSION = "1.2.1"
LLAMA = "LlamaForCausalLM"
MAX_OPTIONAL = 12

FACTS = ModelFacts(
    architecture=LLAMA,
    model_type="llama",
    dtype="bfloat16",
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
    intermediate_size=14336,
    max_position_embeddings=8192,
    weight_bytes=16_060_522_240,
    has_safetensors=True,
    has_pickle=False,
    has_tokenizer=True,
    remote_code=False,
)
ENCODER_DECODER = {
    "encoder": Stack(num_hidden_layers=12, num_attention_heads=16, intermediate_size=4096),
    "decoder": Stack(num_hidden_layers=6, num_attention_heads=16, intermediate_size=4096),
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 16,
    "num_key_value_heads": None, "weight_bytes": 1_500_000_000,
}  # fmt: skip
T5 = FACTS.model_copy(
    update=ENCODER_DECODER | {"architecture": "T5ForConditionalGeneration", "model_type": "t5", "vocab_size": 32128,
                     "max_position_embeddings": 512}
)  # fmt: skip
BART = FACTS.model_copy(
    update=ENCODER_DECODER | {"architecture": "BartForConditionalGeneration", "model_type": "bart", "vocab_size": 50264,
                     "max_position_embeddings": 1024}
)  # fmt: skip
H100 = Platform(
    arch="x86_64",
    gpu="NVIDIA H100 80GB HBM3",
    sm="90",
    gpu_memory_gib=80,
    cuda="13.0",
    driver="580.159.04",
)


def spec(version: str = VERSION, **fields: Any) -> BuildSpec:
    seed = {
        "model": "hf:org/model",
        "toolchain": {"name": "trtllm", "version": version},
        "precision": {"dtype": "bfloat16"},
        "limits": {"max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024},
        "options": {"gemm_plugin": "auto"},
    }
    return BuildSpec.parse(seed | fields)


def facts(**changes: Any) -> ModelFacts:
    return FACTS.model_copy(update=changes)


def platform(**changes: Any) -> Platform:
    return H100.model_copy(update=changes)


def _value(option: Any) -> st.SearchStrategy[Any]:
    item = {
        "bool": st.booleans(),
        "int": st.integers(option.minimum if option.minimum is not None else 0, 4096),
        "float": st.floats(0, 1),
        "str": st.nothing(),
    }[option.type]
    item = st.sampled_from(option.choices) if option.choices else item
    value = st.lists(item, min_size=1, max_size=4) if option.nargs == "+" else item
    return st.one_of(st.none(), value) if option.default is None else value


@cache
def _conversion(version: str, architecture: str, draft: str | None) -> Conversion:
    conversion = find_conversion(find_release(version), architecture, Precision(), None, draft)
    assert conversion is not None
    return conversion


@cache
def _options(version: str, architecture: str, draft: str | None) -> st.SearchStrategy[dict[str, Any]]:
    """The required options, and a few of the others: drawing each of seventy options would take most of the time."""
    conversion = _conversion(version, architecture, draft)
    options = {**find_release(version).build_options_of(architecture), **conversion.all_options}
    values = {name: _value(option) for name, option in options.items()}
    required = {name: _value(conversion.script_options[name]) for name in conversion.required_options}
    if conversion.draft_heads:
        required |= {
            conversion.draft_heads.model_option: st.just("hf:org/heads"),
            "speculative_decoding_mode": st.just(draft),
        }
        values.pop("max_draft_len")  # it is the checkpoint's
    values = {name: value for name, value in values.items() if name not in required}
    names_of_optional = st.lists(st.sampled_from(sorted(values)), max_size=MAX_OPTIONAL, unique=True)
    return names_of_optional.flatmap(
        lambda names: st.fixed_dictionaries(required | {name: values[name] for name in names})
    )


@cache
def _limits(version: str) -> st.SearchStrategy[dict[str, Any]]:
    tokens = st.one_of(st.none(), st.integers(1, 40_000))
    values = find_release(version).build_table.by_name
    return st.fixed_dictionaries(
        {
            "max_batch_size": st.integers(1, 4096),
            "max_input_len": st.integers(1, 20_000),
            "max_output_len": st.integers(1, 4096),
        },
        optional={"max_beam_width": st.integers(1, 8), "max_num_tokens": tokens}
        | ({"opt_num_tokens": tokens} if "opt_num_tokens" in values else {}),
    )


@cache
def _roles(version: str, architecture: str, draft: str | None) -> set[str]:
    """The kinds of parallelism that the script has."""
    return {"tp", "pp", "cp"} - set(
        _conversion(version, architecture, draft).unsupported(Parallelism(tp=2, pp=2, cp=2))
    )


def each_program() -> list[tuple[str, str, str | None]]:
    """A (version, architecture, draft mode) for every builder and family that some release has."""
    programs: dict[tuple[str, str, Script], tuple[str, str, str | None]] = {}
    for release in all_releases():
        for architecture in release.architectures:
            script = release.script_for(architecture)
            assert script is not None
            family = family_names()[architecture]
            programs.setdefault((release.build, family, script), (release.version, architecture, None))
            for draft, (_, draft_script) in available_modes(release, architecture).items():
                programs.setdefault((release.build, draft, draft_script), (release.version, architecture, draft))
    return sorted(programs.values(), key=str)


@st.composite
def specs(draw: st.DrawFn, version: str = VERSION, architecture: str = LLAMA, draft: str | None = None) -> BuildSpec:
    """Specs whose options are valid one by one; together they may still be refused."""
    size, roles = st.sampled_from([1, 2, 4, 8]), _roles(version, architecture, draft)
    return spec(
        version,
        precision={"dtype": draw(st.sampled_from(["auto", "bfloat16", "float16", "float32"]))},
        parallelism={role: draw(size) if role in roles else 1 for role in ("tp", "pp", "cp")},
        limits=draw(_limits(version)),
        options=draw(_options(version, architecture, draft)),
    )
