"""The seed spec, the model and the machine that it is for, and generated specs around it."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from enginefarm.contract.model_facts import ModelFacts, Stack
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec, Parallelism, Precision
from toolchains.trtllm.context.conversion import Conversion, find_conversion
from toolchains.trtllm.releases.draft_heads import available_modes
from toolchains.trtllm.releases.model_family import family_names
from toolchains.trtllm.releases.release import Script, all_releases, find_release

VERSION = "1.2.1"
LLAMA = "LlamaForCausalLM"
SOME_OPTIONS = 12

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
HALVES = {
    "encoder": Stack(num_hidden_layers=12, num_attention_heads=16, intermediate_size=4096),
    "decoder": Stack(num_hidden_layers=6, num_attention_heads=16, intermediate_size=4096),
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 16,
    "num_key_value_heads": None, "weight_bytes": 1_500_000_000,
}  # fmt: skip
T5 = FACTS.model_copy(
    update=HALVES | {"architecture": "T5ForConditionalGeneration", "model_type": "t5", "vocab_size": 32128,
                     "max_position_embeddings": 512}
)  # fmt: skip
BART = FACTS.model_copy(
    update=HALVES | {"architecture": "BartForConditionalGeneration", "model_type": "bart", "vocab_size": 50264,
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


def spec(version: str = VERSION, **parts: Any) -> BuildSpec:
    seed = {
        "model": "hf:org/model",
        "toolchain": {"name": "trtllm", "version": version},
        "precision": {"dtype": "bfloat16"},
        "limits": {"max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024},
        "options": {"gemm_plugin": "auto"},
    }
    return BuildSpec.parse(seed | parts)


def facts(**changes: Any) -> ModelFacts:
    return FACTS.model_copy(update=changes)


def platform(**changes: Any) -> Platform:
    return H100.model_copy(update=changes)


def _value(option: Any) -> st.SearchStrategy[Any]:
    one = {
        "bool": st.booleans(),
        "int": st.integers(option.minimum if option.minimum is not None else 0, 4096),
        "float": st.floats(0, 1),
        "str": st.nothing(),
    }[option.type]
    one = st.sampled_from(option.choices) if option.choices else one
    value = st.lists(one, min_size=1, max_size=4) if option.nargs == "+" else one
    return st.one_of(st.none(), value) if option.default is None else value


@cache
def _conversion(version: str, architecture: str, draft: str | None) -> Conversion:
    made = find_conversion(find_release(version), architecture, Precision(), None, draft)
    assert made is not None
    return made


@cache
def _options(version: str, architecture: str, draft: str | None) -> st.SearchStrategy[dict[str, Any]]:
    """What must be said, and some of the rest: a choice for each of seventy options would take most of the time."""
    made = _conversion(version, architecture, draft)
    open_to_callers = {**find_release(version).build_options_of(architecture), **made.all_options}
    known = {name: _value(option) for name, option in open_to_callers.items()}
    must = {name: _value(made.script_options[name]) for name in made.required_options}
    if made.draft_heads:
        must |= {made.draft_heads.model_option: st.just("hf:org/heads"), "speculative_decoding_mode": st.just(draft)}
        known.pop("max_draft_len")  # it is the checkpoint's
    known = {name: value for name, value in known.items() if name not in must}
    some = st.lists(st.sampled_from(sorted(known)), max_size=SOME_OPTIONS, unique=True)
    return some.flatmap(lambda names: st.fixed_dictionaries(must | {name: known[name] for name in names}))


@cache
def _limits(version: str) -> st.SearchStrategy[dict[str, Any]]:
    tokens = st.one_of(st.none(), st.integers(1, 40_000))
    known = find_release(version).build_table.by_name
    return st.fixed_dictionaries(
        {
            "max_batch_size": st.integers(1, 4096),
            "max_input_len": st.integers(1, 20_000),
            "max_output_len": st.integers(1, 4096),
        },
        optional={"max_beam_width": st.integers(1, 8), "max_num_tokens": tokens}
        | ({"opt_num_tokens": tokens} if "opt_num_tokens" in known else {}),
    )


@cache
def _roles(version: str, architecture: str, draft: str | None) -> set[str]:
    """The kinds of parallelism that the script has."""
    return {"tp", "pp", "cp"} - set(
        _conversion(version, architecture, draft).unsupported(Parallelism(tp=2, pp=2, cp=2))
    )


def each_program() -> list[tuple[str, str, str | None]]:
    """A (version, architecture, way to draft) for every builder and family that some release has."""
    found: dict[tuple[str, str, Script], tuple[str, str, str | None]] = {}
    for release in all_releases():
        for architecture in release.architectures:
            script = release.script_for(architecture)
            assert script is not None
            kind = family_names()[architecture]
            found.setdefault((release.build, kind, script), (release.version, architecture, None))
            for draft, (_, drafting) in available_modes(release, architecture).items():
                found.setdefault((release.build, draft, drafting), (release.version, architecture, draft))
    return sorted(found.values(), key=str)


@st.composite
def specs(draw: st.DrawFn, version: str = VERSION, architecture: str = LLAMA, draft: str | None = None) -> BuildSpec:
    """Specs whose options are sound one by one; together they may still be refused."""
    size, roles = st.sampled_from([1, 2, 4, 8]), _roles(version, architecture, draft)
    return spec(
        version,
        precision={"dtype": draw(st.sampled_from(["auto", "bfloat16", "float16", "float32"]))},
        parallelism={role: draw(size) if role in roles else 1 for role in ("tp", "pp", "cp")},
        limits=draw(_limits(version)),
        options=draw(_options(version, architecture, draft)),
    )
