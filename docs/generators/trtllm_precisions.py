"""Which release of TensorRT-LLM makes which precision of which architecture, as a submit to this farm finds it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from packaging.version import Version

from docs.generators.markdown import table
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec, Precision
from toolchains.trtllm.checks.preflight import problems_by_rules
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.conversion import find_conversion
from toolchains.trtllm.releases.model_family import families_by_name
from toolchains.trtllm.releases.precision_recipe import ModelQuantization, quantization_of, recipe_table
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases

# A precision is for some GPUs only; one of these has each.
_GPUS = (
    ("NVIDIA A100-SXM4-80GB", "80"),
    ("NVIDIA L40S", "89"),
    ("NVIDIA H100 80GB HBM3", "90"),
    ("NVIDIA B200", "100"),
)
# Findings about other parts of a spec are of this spec and not of the precision.
_POINTERS = ("/precision", "/model", "/toolchain", "/platform")


def trtllm_precisions() -> str:
    """Markdown: a row for each architecture, a column for each quantization, the releases in each cell."""
    # Oldest first. Release candidates would more than double the time, and differ little from their release.
    releases = [release for release in reversed(all_releases()) if not Version(release.version).is_prerelease]
    recipes_by_quantization = recipe_table().quantization
    rows = []
    for family_name, architecture in sorted(_architectures()):
        cells = [_cell(releases, architecture, None, (None,))]
        for quantization, recipes in recipes_by_quantization.items():
            forms = tuple(dict.fromkeys(recipe.model_quantization for recipe in recipes))
            cells.append(_cell(releases, architecture, quantization, forms))
        if any(cells):
            rows.append((f"`{architecture}`", family_name, *cells))
    names = ["unquantized", *(f"`{quantization}`" for quantization in recipes_by_quantization)]
    return table(("architecture", "family", *names), rows)


def _architectures() -> Iterator[tuple[str, str]]:
    for family_name, family in families_by_name().items():
        for architecture in family.architectures:
            yield family_name, architecture


def _cell(
    releases: list[ReleaseDescriptor],
    architecture: str,
    quantization: str | None,
    forms: tuple[ModelQuantization | None, ...],
) -> str:
    """The releases that make it, as ranges; empty if none does.

    Args:
        forms: of the model's weights, as the recipes take them; None for weights that are not quantized.
    """
    models = [_facts(architecture, form) for form in forms]
    ranges: list[list[str]] = []
    previous_makes_it = False
    for release in releases:
        makes_it = any(_makes(release, quantization, facts) for facts in models)
        if makes_it and previous_makes_it:
            ranges[-1][1:] = [release.version]
        elif makes_it:
            ranges.append([release.version])
        previous_makes_it = makes_it
    words = []
    for versions in ranges:
        first, last = versions[0], versions[-1]
        if last == releases[-1].version:
            words.append(f"{first} on")
        elif first == last:
            words.append(first)
        else:
            words.append(f"{first} to {last}")
    return ", ".join(words)


def _makes(release: ReleaseDescriptor, quantization: str | None, facts: ModelFacts) -> bool:
    """True if the farm finds nothing against it on one of the GPUs."""
    # The checks below would say so, too, and take far longer.
    precision = Precision(quantization=quantization)
    if find_conversion(release, facts.architecture, precision, quantization_of(facts)) is None:
        return False
    for gpu, sm in _GPUS:
        platform = Platform(arch="x86_64", gpu=gpu, sm=sm, gpu_memory_gib=80, cuda="13.0", driver="580.159.04")
        for dtype in ("bfloat16", "float16"):
            spec = _spec(release.version, quantization, dtype)
            problems = problems_by_rules(BuildContext(release, spec, facts, platform))
            if not any(problem.pointer.startswith(_POINTERS) for problem in problems):
                return True
    return False


def _facts(architecture: str, form: ModelQuantization | None) -> ModelFacts:
    """A model of usual sizes."""
    quantization_config = None
    if form is not None:
        quantization_config = {
            "quant_method": form.method,
            "bits": form.bits,
            "group_size": 128,
            "quant_algo": form.algorithm,
        }
    return ModelFacts(
        architecture=architecture, dtype="bfloat16", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, vocab_size=32000, intermediate_size=16384, max_position_embeddings=4096,
        weight_bytes=16 << 30, has_safetensors=True, has_pickle=False, has_tokenizer=True, remote_code=False,
        quantization_config=quantization_config,
    )  # fmt: skip


@cache
def _spec(version: str, quantization: str | None, dtype: str) -> BuildSpec:
    return BuildSpec.parse(
        {
            "model": "hf:org/model",
            "toolchain": {"name": "trtllm", "version": version},
            "precision": {"dtype": dtype, "quantization": quantization},
            "limits": {"max_batch_size": 1, "max_input_len": 128, "max_output_len": 128},
            "calibration": "hf:org/data@main",
        }
    )
