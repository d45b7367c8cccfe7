"""Run an aoti engine from Python. Imports no torch: the engine runs in a child process, so its crash harms no caller.

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
from toolchains.aoti.admission import EngineLimits
from toolchains.aoti.engine_process import EngineProcess, EngineStopped

__all__ = ["Engine", "EngineConfig", "EngineStopped", "Step", "Timings"]

_FILES = ("config.json", "engine.pt2")
_PATIENCE = 600.0  # seconds; unpacking a large engine from a slow disk takes minutes without an answer


class EngineConfig(BaseModel):
    """The part of an engine's `config.json` that is needed to run it."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    dtype: str
    limits: EngineLimits
    vocab_size: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One token for each prompt; None for a prompt whose answer has ended."""

    index: int
    tokens: tuple[int | None, ...]


@dataclass(frozen=True)
class Timings:
    """Durations of one generation, measured in the engine's process, and the tokens of all its answers."""

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
        self._latest_generation = 0

    @classmethod
    def load(cls, directory: Path, *, patience: float = _PATIENCE) -> Self:
        """Check that the engine runs on this machine, and start it.

        `patience`: seconds without an answer after which the engine's process is killed.

        Raises:
            InvalidRequest: `directory` contains no aoti engine.
            PlatformMismatch: the engine was compiled for another kind of machine, or another torch.
            EngineStopped: the engine could not be loaded.
        """
        document = _read_config(directory)
        placement.check(document, str(directory))
        try:
            config = EngineConfig.model_validate(document)
        except ValidationError as error:
            raise InvalidRequest(f"{directory}: config.json is not that of an engine: {error}") from error
        process = EngineProcess(directory, patience)
        # The first answer is "ready". If there is none, `receive` kills the child before it raises.
        process.receive()
        return cls(directory, config, process)

    def generate(self, prompts: Sequence[str] | Sequence[Sequence[int]], max_new_tokens: int) -> Iterator[Step]:
        """Start a generation from texts or token ids, and yield its steps while the engine computes them.

        The request is checked before this method returns, and before the engine gets it. The next call abandons an
        iterator that is not exhausted, but the engine finishes that generation first.

        Raises:
            InvalidRequest: the request exceeds the engine's limits, or an id is not in its vocabulary.
            EngineStopped: also while iterating.
        """
        # A string is a sequence of strings too: each character would become a prompt.
        if isinstance(prompts, str):
            raise InvalidRequest("prompts is one text: expected a list; put it in brackets")
        rows = []
        for prompt in prompts:
            if isinstance(prompt, str):
                rows.append(self.encode(prompt))
            else:
                rows.append(list(prompt))
        admission.check(rows, max_new_tokens, self.config.limits, self.config.vocab_size)
        self._latest_generation += 1
        self._process.send(
            {
                "id": self._latest_generation,
                "input_ids": rows,
                "max_new_tokens": max_new_tokens,
                "stop_ids": self.config.eos_token_ids,
            }
        )
        return self._steps(self._latest_generation)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        text: str = self.tokenizer.decode(list(tokens))
        return text

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The engine's own tokenizer.

        Raises:
            InvalidRequest: the engine has none.
        """
        path = self.directory / "tokenizer.json"
        if not path.is_file():
            raise InvalidRequest(f"{self.directory} has no tokenizer.json: give token ids instead of text")
        return Tokenizer.from_file(str(path))

    @property
    def pid(self) -> int:
        """Process id of the engine's process."""
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

    def _steps(self, generation: int) -> Iterator[Step]:
        # A function of its own, because a generator runs nothing before it is iterated; `generate` checks at once.
        while True:
            if generation != self._latest_generation:
                raise InvalidRequest("this generation was abandoned when the next one began: finish one at a time")
            answer = self._process.receive()
            if answer["id"] != generation:  # a step of an abandoned generation
                continue
            if answer.get("done"):
                self.timings = Timings(**answer["timings"])
                return
            yield Step(answer["step"], tuple(answer["tokens"]))


def _read_config(directory: Path) -> dict[str, Any]:
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if missing:
        raise InvalidRequest(f"{directory} is not an engine directory: {' and '.join(missing)} missing")
    try:
        document = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"{directory}: config.json is not JSON: {error}") from error
    if not isinstance(document, dict) or (document.get("toolchain"), document.get("format")) != ("aoti", 1):
        raise InvalidRequest(f"{directory} is no aoti engine of format 1: see toolchain and format in its config.json")
    return document
