"""Check each option by itself: whether the release has it for this model, and accepts its value."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from packaging.version import Version

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.conversion import precisions_with_option
from toolchains.trtllm.releases.engine_part import closed_options
from toolchains.trtllm.releases.precision_recipe import quantization_of, recipe_option_names
from toolchains.trtllm.releases.release import releases_with_option
from toolchains.trtllm.releases.reserved_options import ReservedOption, former_options, meaning, reserved_options


def find_option_problems(context: BuildContext) -> Iterator[Problem]:
    """A problem for each option that is not available, and for each value that is not accepted.

    They hold in every release, so that their codes are in no table of rules.
    """
    for name, value in context.spec.options.items():
        option = context.available_options.get(name)
        if option is None:
            yield _unavailable_option(context, name)
        elif not option.accepts(value):
            yield Problem(
                pointer=f"/options/{name}",
                code="option_value",
                detail=f"{option.flag} of TensorRT-LLM {context.release.version} does not take this value",
                value=value,
                expected=option.expected,
            )


def _unavailable_option(context: BuildContext, name: str) -> Problem:
    """The problem of an option that callers cannot set in this build, with the most helpful reason that is known."""
    version = context.release.version
    architecture = context.facts.architecture
    alias_of = context.release.option_aliases(architecture).get(name)
    former = former_options().get(name)
    reserved = closed_options(architecture).get(name, reserved_options().get(name))
    versions = releases_with_option(name)  # newest first
    precisions: list[str] = []
    if name in recipe_option_names():
        model_quantization = quantization_of(context.facts)
        precisions = precisions_with_option(context.release, architecture, model_quantization, name)
    remedy = "remove it"
    if alias_of in context.available_options:
        # Normalization replaces an alias unless the spec has both names.
        code = "option_twice"
        detail = f"{name} and {alias_of} are one option, and both are given"
        remedy = f"give only {alias_of}"
    elif former and Version(version) >= Version(former.removed_in):
        code = "former_option"
        detail = f"{name} is gone since TensorRT-LLM {former.removed_in}: {former.why}"
        remedy = _use_instead(context, name, former.instead)
    elif precisions:
        # The release has it, for other precisions than the spec's.
        code = "reserved_option"
        detail = f"{name} is an option of other precisions in TensorRT-LLM {version}: of {', '.join(precisions)}"
        remedy = "remove it, or ask for one of these precisions"
        if reserved and reserved.instead == "/model":
            remedy = f"use /model: {reserved.why}; or ask for one of these precisions"
    elif reserved:
        code = "reserved_option"
        detail = f"{name} is not set under /options: {reserved.why}"
        remedy = _remedy_of_reserved(context, name, reserved)
    elif version in versions:
        code = "unknown_option"
        detail = f"the conversion of {architecture} in TensorRT-LLM {version} has no option {name}"
        remedy = _suggest_names(context, name)
    elif versions and Version(versions[-1]) > Version(version):
        code = "newer_option"
        detail = f"TensorRT-LLM {version} has no option {name}: {versions[-1]} is the first release known to have it"
        remedy = f"remove it, or build with {versions[-1]} or newer"
    elif versions and Version(versions[0]) < Version(version):
        code = "former_option"
        detail = f"TensorRT-LLM {version} has no option {name}: {versions[0]} is the last release known to have it"
    elif versions:
        # Options come back, and an inferred table leaves out what the tables around it do not have alike.
        code = "unknown_option"
        detail = f"no option {name} of TensorRT-LLM {version} is known: only releases before and after it have one"
    else:
        code = "unknown_option"
        detail = f"TensorRT-LLM {version} has no option {name}"
        remedy = _suggest_names(context, name)
    value = context.spec.options[name]
    return Problem(pointer=f"/options/{name}", code=code, detail=detail, value=value, remedy=remedy)


def _remedy_of_reserved(context: BuildContext, name: str, reserved: ReservedOption) -> str:
    section, _, field = reserved.instead.removeprefix("/").partition("/")
    # The precision may say it already: then the option is one time too many, and nothing is missing.
    if section == "precision" and getattr(context.spec.precision, field) is not None:
        return f"remove it: {reserved.instead} is {getattr(context.spec.precision, field)} already"
    if reserved.values and context.spec.options.get(reserved.only_with or "") is not None:
        return f"give only {reserved.only_with}"
    if reserved.values:
        return f"use {reserved.instead}: {' or '.join(reserved.values.values())}"
    return _use_instead(context, name, reserved.instead)


def _use_instead(context: BuildContext, name: str, pointer: str) -> str:
    """In words, the field to use, and the value there if it is known."""
    if not pointer:
        return "remove it"
    value = context.spec.options[name]
    if pointer == "/precision/quantization" and context.family and context.family.unquantized_reason:
        return "remove it: the farm makes no quantisation of this model"
    new_value = meaning(name, value)
    # These fields take the values of the options that they replace.
    if new_value is None and pointer.startswith(("/limits/", "/parallelism/")):
        new_value = str(value)
    if new_value is None:
        return f"use {pointer}"
    return f"use {pointer}: {new_value}"


def _suggest_names(context: BuildContext, name: str) -> str:
    similar = get_close_matches(name, context.available_options, n=3)
    if similar:
        return f"did you mean {' or '.join(similar)}?"
    return "GET /v1/toolchains lists the options of each version"
