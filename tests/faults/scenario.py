"""One pull and its faults, all chosen by a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from enginefarm.contract import digest
from enginefarm.contract.key import key_of
from enginefarm.contract.manifest import FileEntry, Manifest
from tests.faults.bad_responses import EXPIRED, FAULTS, LOUD

_PART_SIZES = (1 << 12, 1 << 14, 1 << 16)
_LASTING = sorted({*FAULTS} - {EXPIRED, "stall"})  # a stall at every try would take as long as the patience lasts


@dataclass(frozen=True)
class Scenario:
    seed: int
    part_size: int
    connections: int
    files: dict[str, bytes]
    faults: dict[str, list[str]]  # names by path, one for each request; "" is a right response
    lasting: str  # the fault of every request after those, until the trial lifts it; "" is none
    farm_away: int  # requests for new links that are answered 503
    kills: tuple[float, ...]  # seconds from each start to SIGKILL
    pullers: int
    one_place: bool  # all pullers have the same destination, else each its own
    cached: bool
    file_limit: int | None  # bytes: the kernel's limit for a file, which acts like a full disk
    pace: float  # seconds after each piece that the server sends

    @classmethod
    def of(cls, seed: int) -> Scenario:
        chance = random.Random(seed)
        part_size = chance.choice(_PART_SIZES)
        files = _files(chance, part_size)
        killed = chance.random() < 0.25
        full = chance.random() < 0.05
        return cls(
            seed=seed,
            part_size=part_size,
            connections=chance.choice([1, 2, 4, 8]),
            files=files,
            faults={path: _faults(chance) for path in files},
            lasting=chance.choice(_LASTING) if chance.random() < 0.08 else "",
            farm_away=chance.choice([0, 0, 0, 1, 3]),
            kills=tuple(chance.uniform(0, 0.3) for _ in range(chance.randint(1, 3))) if killed else (),
            pullers=2 if chance.random() < 0.15 else 1,
            one_place=chance.random() < 0.3,
            cached=chance.random() < 0.5,
            file_limit=chance.randrange(1, 2 * part_size) if full else None,
            pace=chance.choice([0, 0.005]) if killed else 0,
        )

    @property
    def document(self) -> dict[str, int]:
        """What the engine's key is the hash of."""
        return {"seed": self.seed}

    @cached_property
    def key(self) -> str:
        return key_of(self.document)

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.of(
            FileEntry(path=path, digest=digest.of_bytes(data), size=len(data)) for path, data in self.files.items()
        )

    @property
    def only_killed(self) -> bool:
        """Whether kills are its only faults: how many bytes may be fetched twice is then known."""
        has_faults = any(any(names) for names in self.faults.values())
        has_other_causes = self.lasting or self.cached or self.file_limit or self.pullers > 1
        return bool(self.kills) and not has_faults and not has_other_causes


def _files(chance: random.Random, part_size: int) -> dict[str, bytes]:
    sizes = (0, 1, part_size - 1, part_size, part_size + 1, 2 * part_size, chance.randrange(8 * part_size))
    names = ("rank0.engine", "config.json", "tokenizer/vocab.json", "tokenizer/deep/merges.txt")
    files = {name: chance.randbytes(chance.choice(sizes)) for name in names[: chance.randint(1, 4)]}
    if chance.random() < 0.2:
        files["rank1.engine"] = files["rank0.engine"]
    return files


def _faults(chance: random.Random) -> list[str]:
    """Faults of the first requests for a file. Silent ones are rarer: each costs the whole file."""
    if chance.random() < 0.25:
        return []
    names = []
    for _ in range(chance.randint(1, 8)):
        if chance.random() < 0.4:
            names.append("")
        elif chance.random() < 0.7:
            names.append(chance.choice([*LOUD, EXPIRED]))
        else:
            names.append(chance.choice([*FAULTS]))
    return names
