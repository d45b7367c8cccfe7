"""How many bytes of the database a build costs, by table: the tables are measured around many builds of one kind.

The catalogue must be new: rows that are added later take the room of removed ones first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Engine

from enginefarm.client.farm import Farm, engine_of
from enginefarm.contract.errors import FarmError
from enginefarm.wire.bodies import Disposition, Submitted
from tests.farm.running_farm import RunningFarm
from tests.soak.readings import table_sizes

_CALLERS = 8
_TIMEOUT = 600.0
_JOINED_SECONDS = 60.0  # the build that the others join runs this long

# The options of a build whose engine exists once the growth is measured.
REPEATED = {"salt": "growth 0", "convert_seconds": 1e-7}


@dataclass(frozen=True)
class Growth:
    """Bytes that each build of a kind added, by table: rows, indexes, and what its updates left dead."""

    kind: Disposition
    builds: int
    by_table: Mapping[str, float]


class Growths:
    """Builds of a farm that has built nothing yet."""

    def __init__(self, farm: RunningFarm, model: str) -> None:
        self._farm, self._model = farm, model
        self._engine: Engine = farm.database.engine
        self._clients = [Farm(url) for url in farm.urls]

    def measure(self, builds: int) -> Sequence[Growth]:
        """The growth by this many new builds, by ten times as many cached ones, and by thrice as many joined ones."""
        # The first page of each table and index.
        self._build(-1)
        growths = [
            self._growth_by(Disposition.CREATED, self._build, builds),
            self._growth_by(Disposition.CACHED, self._repeat, 10 * builds),
        ]
        slow = self._join(0)
        growths.append(self._growth_by(Disposition.JOINED, self._join, 3 * builds, wait_for=slow.id))
        for client in self._clients:
            client.close()
        return growths

    def _growth_by(
        self, kind: Disposition, step: Callable[[int], Submitted], count: int, *, wait_for: str | None = None
    ) -> Growth:
        before = table_sizes(self._engine)
        with ThreadPoolExecutor(_CALLERS) as callers:
            dispositions = Counter(submitted.disposition for submitted in callers.map(step, range(count)))
        if wait_for is not None:
            # Its end changes the rows of all builds that joined it.
            engine_of(self._clients[0].wait(wait_for, timeout=_TIMEOUT))
        builds = dispositions[kind]
        assert builds > 0.9 * count, f"not the builds that were to be measured: {dispositions}"
        by_table = {}
        for table, size in table_sizes(self._engine).items():
            size_before = before[table].size if table in before else 0
            by_table[table] = (size.size - size_before) / builds
        return Growth(kind, builds, by_table)

    def _build(self, number: int) -> Submitted:
        # Convert options of its own, so that both stages run.
        submitted = self._submit(number, salt=f"growth {number}", convert_seconds=(number + 1) * 1e-7)
        engine_of(self._clients[0].wait(submitted.id, timeout=_TIMEOUT))
        return submitted

    def _repeat(self, number: int) -> Submitted:
        return self._submit(number, **REPEATED)

    def _join(self, number: int) -> Submitted:
        return self._submit(number, salt="joined", seconds=_JOINED_SECONDS)

    def _submit(self, number: int, **options: object) -> Submitted:
        client = self._clients[number % len(self._clients)]
        spec = self._farm.spec(self._model, **options)
        try:
            return client.submit(spec)
        except FarmError:
            # A connection that the API closed at the same time: the client does not repeat a submit by itself.
            return client.submit(spec)
