"""Parsers of the doubles' command lines, from the release's option tables.

The tables are read without the product's own reader, so that a fault in the reader shows up as a refused option.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "toolchains" / "trtllm" / "data"
TYPES = {"int": int, "float": float, "str": str}


@cache
def release(version: str) -> dict[str, Any]:
    """The series of a release, with the programs of all its releases."""
    for path in (DATA / "releases").glob("*.json"):
        series: dict[str, Any] = json.loads(path.read_bytes())
        if any(release["version"] == version for release in series["releases"]):
            return series
    raise LookupError(version)


def build_parser(version: str) -> argparse.ArgumentParser:
    return parser(release(version)["build"])


def convert_parser(version: str, family: str) -> argparse.ArgumentParser:
    """The parser of a family's script, or of the script that adds the draft heads of a mode."""
    return parser(_scripts(version)[family]["table"])


def family_of(version: str, folder: str) -> str:
    """A family whose script lies in this folder of the examples."""
    scripts = {name: Path(program["script"]) for name, program in _scripts(version).items()}
    return next(name for name, script in scripts.items() if script.parent.name == folder)


def _scripts(version: str) -> dict[str, Any]:
    series = release(version)
    return {**series["convert"], **series.get("draft", {})}


def vision_parser(version: str) -> argparse.ArgumentParser:
    return parser(release(version)["vision"]["table"])


def refit_parser(version: str) -> argparse.ArgumentParser:
    """Raises KeyError or TypeError in a release of which no table is known: it has no double."""
    return parser(release(version)["refit"])


def quantize_parser(version: str) -> argparse.ArgumentParser:
    return parser(release(version)["quantize"]["table"])


@cache
def parser(table: str) -> argparse.ArgumentParser:
    """A parser that accepts abbreviated options, as the real programs do."""
    content = json.loads((DATA / "tables" / table).read_bytes())
    made = argparse.ArgumentParser(prog=content["program"])
    for option in content["options"]:
        made.add_argument(option["flag"], *option.get("aliases", ()), **_how(option))
    return made


def _how(option: dict[str, Any]) -> dict[str, Any]:
    if option["type"] == "bool":
        return {"action": "store_true", "default": option["default"]}
    how = {
        "type": TYPES[option["type"]],
        "default": option["default"],
        "dest": option["flag"].lstrip("-").replace("-", "_"),
    }
    return how | {key: option[key] for key in ("choices", "nargs", "const", "required") if key in option}
