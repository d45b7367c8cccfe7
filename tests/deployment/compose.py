"""compose.yaml as Docker Compose would read it, and the Dockerfiles it builds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
COMPOSE = CHECKOUT / "compose.yaml"
EXAMPLE = CHECKOUT / ".env.example"

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[?-])(?P<more>[^}]*))?\})")


class MissingVariable(Exception):
    """`${NAME:?message}` without a value."""


def interpolated(environment: Mapping[str, str]) -> dict[str, Any]:
    """compose.yaml with `environment` put in, merges resolved. Raises MissingVariable."""
    content = yaml.safe_load(COMPOSE.read_text())
    return {name: _filled(part, environment) for name, part in content.items() if not name.startswith("x-")}


def _filled(part: Any, environment: Mapping[str, str]) -> Any:
    match part:
        case dict():
            return {name: _filled(value, environment) for name, value in part.items()}
        case list():
            return [_filled(value, environment) for value in part]
        case str():
            return _VARIABLE.sub(lambda found: _value(found, environment), part)
    return part


def _value(found: re.Match[str], environment: Mapping[str, str]) -> str:
    if found["name"] is None:
        return "$"
    given = environment.get(found["name"], "")
    if given or found["how"] is None:
        return given
    if found["how"] == ":?":
        raise MissingVariable(f"{found['name']}: {found['more']}")
    return found["more"]


def example() -> dict[str, str]:
    """The variables of .env.example, as they are there."""
    lines = EXAMPLE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled_example() -> dict[str, str]:
    return {name: value or f"0123456789abcdef{len(name)}" for name, value in example().items()}


def environment_of(service: Mapping[str, Any]) -> dict[str, str]:
    """What the service's process sees; a variable without a value is passed on from outside, where it is unset here."""
    return {name: value for name, value in service.get("environment", {}).items() if value is not None}


@dataclass(frozen=True)
class Dockerfile:
    path: Path
    instructions: tuple[tuple[str, str], ...]  # (FROM, the rest)

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
        split = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
        return cls(path, tuple((name, rest) for name, rest in split))

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.instructions if name == instruction]

    @property
    def copied(self) -> list[str]:
        """The sources of every COPY from the checkout."""
        copies = [shlex.split(rest) for rest in self.all("COPY") if "--from=" not in rest]
        words = [[word for word in line if not word.startswith("--")] for line in copies]
        return [source for line in words for source in line[:-1]]

    @property
    def command(self) -> list[str]:
        found: list[str] = json.loads(self.all("CMD")[-1])
        return found


def dockerfile_of(service: Mapping[str, Any]) -> Dockerfile:
    build = service["build"]
    return Dockerfile.read(CHECKOUT / build["context"] / build["dockerfile"])
