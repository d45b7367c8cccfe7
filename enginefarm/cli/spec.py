"""Read a spec from a file, from flags, or from a file with flags that override it."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from enginefarm.contract.bounded import parse_json
from enginefarm.contract.errors import InvalidRequest
from enginefarm.contract.spec import BuildSpec

Command = TypeVar("Command", bound=Callable[..., None])

_SECTIONS: dict[str, dict[str, type]] = {
    "precision": {"dtype": str, "quantization": str, "kv_cache": str},
    "parallelism": {"tp": int, "pp": int, "cp": int},
    "limits": {
        "max_batch_size": int,
        "max_input_len": int,
        "max_output_len": int,
        "max_seq_len": int,
        "max_beam_width": int,
        "max_num_tokens": int,
        "opt_num_tokens": int,
    },
}
# Both state the same length. A flag for one of them therefore overrides both in the file, or they would disagree.
_SAME_LENGTH = ("max_output_len", "max_seq_len")


def spec_arguments(command: Command) -> Command:
    """Add the argument SPEC and the flags that override it; pass them to `read_spec` unchanged."""
    # Backwards, because each decorator puts its parameter before those that the command has already.
    for option in reversed(_TOOLCHAIN_ARGUMENTS):
        command = option(command)
    for fields in reversed(_SECTIONS.values()):
        for name, kind in reversed(fields.items()):
            command = click.option(f"--{name.replace('_', '-')}", name, type=kind)(command)
    for option in reversed(_MODEL_ARGUMENTS):
        command = option(command)
    return command


_MODEL_ARGUMENTS: tuple[Callable[[Any], Any], ...] = (
    click.argument("spec_file", metavar="[SPEC]", type=click.File(encoding="utf-8"), required=False),
    click.option("--model", metavar="MODEL", help="hf:org/name[@revision], file:/absolute/path or s3://bucket/prefix."),
    click.option(
        "--toolchain", metavar="NAME[@VERSION]", help="Without a version: the newest stable one of a live worker."
    ),
)
_TOOLCHAIN_ARGUMENTS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--option",
        "options",
        metavar="NAME=VALUE",
        multiple=True,
        help="A toolchain option; VALUE is JSON or text.",
    ),
    click.option(
        "--calibration",
        metavar="DATA",
        help="Data set for a quantization: file:/folder or hf:org/name[@revision].",
    ),
    click.option(
        "--platform",
        metavar="FIELD=VALUE",
        multiple=True,
        help="A field of the engine's platform, such as sm=90.",
    ),
)


def read_spec(spec_file: IO[str] | None, flags: dict[str, Any]) -> BuildSpec:
    """Return the spec of SPEC and the flags.

    Raises:
        InvalidSpec: with every problem of the spec at once.
        InvalidRequest: the file holds no JSON object.
        click.UsageError: a flag is malformed.
    """
    return BuildSpec.parse(with_flags(read_object(spec_file), flags))


def with_flags(spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `spec` with the value of every flag that the user gave.

    A section of `spec` that is no object is left alone: the spec's validation reports it with a pointer.
    """
    spec = dict(spec)
    for name in ("model", "calibration"):
        if flags[name] is not None:
            spec[name] = flags[name]
    if flags["toolchain"] is not None:
        name, _, version = flags["toolchain"].partition("@")
        spec["toolchain"] = {"name": name}
        if version:
            spec["toolchain"]["version"] = version
    for section, fields in _SECTIONS.items():
        _override(spec, section, {name: flags[name] for name in fields if flags[name] is not None})
    options = {}
    for name, text in _pairs("--option", flags["options"]):
        # Text needs no quotes on the command line: what is no JSON is the text itself.
        try:
            options[name] = parse_json(text.encode())
        except ValueError:
            options[name] = text
    _override(spec, "options", options)
    _override(spec, "platform", dict(_pairs("--platform", flags["platform"])))
    return spec


def _override(spec: dict[str, Any], section: str, flags: dict[str, Any]) -> None:
    # Field by field: a flag overrides one value of the file, not its whole section.
    fields = spec.get(section, {})
    if not flags or not isinstance(fields, dict):
        return
    lengths = [name for name in _SAME_LENGTH if name in flags]
    if len(lengths) == 1:
        fields = {name: value for name, value in fields.items() if name not in _SAME_LENGTH}
    spec[section] = fields | flags


def _pairs(flag: str, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"{flag} {text}: expected NAME=VALUE")
        pairs.append((name, value))
    return pairs


def read_object(file: IO[str] | None) -> dict[str, Any]:
    """Return the JSON object in `file`; an empty one if there is no file.

    Raises:
        InvalidRequest: the file holds no JSON object.
    """
    if file is None:
        return {}
    try:
        spec = parse_json(file.read().encode())
    except ValueError as error:  # no JSON, or no UTF-8
        raise InvalidRequest(f"{file.name} is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidRequest(f"{file.name} holds {type(spec).__name__}, expected a JSON object with a spec")
    return spec
