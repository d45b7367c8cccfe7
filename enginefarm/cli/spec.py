"""A spec from a file, from flags, or from a file with flags laid over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

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
_SAME_LENGTH = ("max_output_len", "max_seq_len")  # two ways to say one thing


def _field_options(command: Command) -> Command:
    """A flag for every plain field of a spec."""
    for fields in reversed(_SECTIONS.values()):
        for name, kind in reversed(fields.items()):
            command = click.option(f"--{name.replace('_', '-')}", name, type=kind)(command)
    return command


def spec_arguments(command: Command) -> Command:
    """SPEC and the flags that go over it; `read_spec` takes them as they come."""
    for option in reversed(_ARGUMENTS):
        command = option(command)
    return command


_ARGUMENTS: tuple[Callable[[Any], Any], ...] = (
    click.argument("spec_file", metavar="[SPEC]", type=click.File(encoding="utf-8"), required=False),
    click.option("--model", metavar="MODEL", help="hf:org/name[@revision], file:/absolute/path or s3://bucket/prefix."),
    click.option("--toolchain", metavar="NAME[@VERSION]", help="Without a version: the newest that a live worker has."),
    _field_options,
    click.option(
        "--option", "options", metavar="NAME=VALUE", multiple=True, help="An option of the toolchain, as JSON or plain."
    ),
    click.option(
        "--calibration", metavar="DATA", help="To calibrate a quantisation on: file:/folder or hf:org/name[@revision]."
    ),
    click.option(
        "--platform", metavar="FIELD=VALUE", multiple=True, help="A field that the platform must have, as sm=90."
    ),
)


def read_spec(spec_file: IO[str] | None, flags: dict[str, Any]) -> BuildSpec:
    """Raises InvalidSpec with every problem, InvalidRequest if the file holds no JSON object."""
    return BuildSpec.parse(laid_over(read_object(spec_file) if spec_file else {}, flags))


def laid_over(spec: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """`spec` with every flag that was given in the place where it belongs.

    A part of `spec` that is no object is left alone: the validation says so better.
    """
    spec = dict(spec)
    spec |= {name: flags[name] for name in ("model", "calibration") if flags[name] is not None}
    if flags["toolchain"] is not None:
        name, _, version = flags["toolchain"].partition("@")
        spec["toolchain"] = {"name": name} | ({"version": version} if version else {})
    for section, fields in _SECTIONS.items():
        _lay(spec, section, {name: flags[name] for name in fields if flags[name] is not None})
    _lay(spec, "options", {name: _json_or_text(value) for name, value in _pairs("--option", flags["options"])})
    _lay(spec, "platform", dict(_pairs("--platform", flags["platform"])))
    return spec


def _lay(spec: dict[str, Any], section: str, given: dict[str, Any]) -> None:
    before = spec.get(section, {})
    if not given or not isinstance(before, dict):
        return
    if len(replaced := [name for name in _SAME_LENGTH if name in given]) == 1:
        before = {name: value for name, value in before.items() if name not in _SAME_LENGTH or name in replaced}
    spec[section] = before | given


def _pairs(flag: str, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"{flag} {text}: expected NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def read_object(file: IO[str]) -> dict[str, Any]:
    try:
        spec = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file.name} is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidRequest(f"{file.name} holds {type(spec).__name__}, expected a JSON object with a spec")
    return spec
