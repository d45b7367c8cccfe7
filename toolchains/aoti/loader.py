"""Run an aoti engine. Imports no torch: the engine lives in a child process, which a bad one cannot outlive.

with Engine.load(Path("engine")) as engine:
    for step in engine.generate(["Once upon a time"], max_new_tokens=32):
        print(step.tokens)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from tokenizers import Tokenizer

from enginefarm.contract.errors import InvalidRequest
from toolchains.aoti import admission, placement
from toolchains.aoti.engine_process import EngineProcess, EngineStopped

__all__ = ["Engine", "EngineConfig", "EngineStopped", "Step", "Timings"]

_FILES = ("config.json", "engine.pt2")
_PATIENCE = 600.0  # seconds; unpacking a large engine from a slow disk is minutes of silence


class EngineConfig(BaseModel):
    """The part of an engine's `config.json` that running it needs."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    dtype: str
    limits: admission.Limits
    vocab_size: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One token for each prompt; None for a prompt whose answer has ended."""

    index: int
    tokens: tuple[int | None, ...]


@dataclass(frozen=True)
class Timings:
    """Of one generation, measured beside the engine."""

    prefill_seconds: float
    decode_seconds: float
    new_tokens: int


class Engine:
    """A running engine. Greedy decoding; one generation at a time."""

    def __init__(self, directory: Path, config: EngineConfig, process: EngineProcess) -> None:
        self.directory = directory
        self.config = config
        self.timings: Timings | None = None  # of the last generation that ran to its end
        self._process = process
        self._newest = 0  # number of the latest generation

    @classmethod
    def load(cls, directory: Path, *, patience: float = _PATIENCE) -> Self:
        """Check that the engine runs here, and start it.

        `patience`: seconds without a word from the engine after which it is given up.

        Raises:
            InvalidRequest: `directory` holds no aoti engine.
            PlatformMismatch: the engine was made for another kind of machine, or another torch.
            EngineStopped: the engine could not be loaded.
        """
        document = _read_config(directory)
        placement.check(document, str(directory))
        config = _parse_config(document, directory)
        process = EngineProcess(directory, patience)
        process.receive()  # "ready"
        return cls(directory, config, process)

    def generate(self, prompts: Sequence[str] | Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[Step]:
        """Tokens as they come. The request is checked at once, before anything reaches the engine.

        The next call gives up an iterator that is not exhausted; the engine still finishes that answer first.

        Raises:
            InvalidRequest: more than the engine's limits allow, or ids that are not in its vocabulary.
            EngineStopped: while iterating.
        """
        if isinstance(prompts, str):
            raise InvalidRequest("prompts is one text: expected a list; put it in brackets")
        rows = [self.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        admission.check(rows, max_new_tokens, self.config.limits, self.config.vocab_size)
        self._newest += 1
        request = {"id": self._newest, "input_ids": rows, "max_new_tokens": max_new_tokens}
        self._process.send(request | {"stop_ids": self.config.eos_token_ids})
        return self._steps(self._newest)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens))
        return text

    @cached_property
    def tokenizer(self) -> Tokenizer:
        path = self.directory / "tokenizer.json"
        if not path.is_file():
            raise InvalidRequest(f"{self.directory} has no tokenizer.json: give token ids instead of text")
        return Tokenizer.from_file(str(path))

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the engine's process."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _steps(self, number: int) -> Iterator[Step]:
        while True:
            if number != self._newest:
                raise InvalidRequest("this generation was given up when the next one began: finish one at a time")
            answer = self._process.receive()
            if answer["id"] != number:  # the rest of a generation that nobody listened to
                continue
            if answer.get("done"):
                self.timings = Timings(**answer["timings"])
                return
            yield Step(answer["step"], tuple(answer["tokens"]))


def _read_config(directory: Path) -> dict[str, Any]:
    if missing := [name for name in _FILES if not (directory / name).is_file()]:
        raise InvalidRequest(f"{directory} is not an engine directory: {' and '.join(missing)} missing")
    try:
        document = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"{directory}: config.json is not JSON: {error}") from error
    if not isinstance(document, dict) or (document.get("toolchain"), document.get("format")) != ("aoti", 1):
        raise InvalidRequest(f"{directory} holds no aoti engine of format 1: its config.json says otherwise")
    return document


def _parse_config(document: dict[str, Any], directory: Path) -> EngineConfig:
    try:
        return EngineConfig.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest(f"{directory}: config.json is not that of an engine: {error}") from error
