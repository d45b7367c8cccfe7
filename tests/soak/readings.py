"""What a soak run reads every few seconds: of each process, of its folders, of the database and of the broker."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from redis import Redis
from sqlalchemy import Engine, text

from tests.soak.trend import Reading, Trend, trend

_MIB = 1 << 20
# Growth per hour that counts as none. A leak of one in each build is some hundreds an hour.
MEMORY_MIB = 4.0
COUNT = 4.0


@dataclass(frozen=True)
class Quantity:
    """What is read, of what, and how much more of it an hour may have."""

    owner: str  # a process or a server
    name: str
    allowance: float


@dataclass
class Readings:
    begin: float = field(default_factory=time.monotonic)
    by_quantity: dict[Quantity, list[Reading]] = field(default_factory=lambda: defaultdict(list))

    def add(self, owner: str, values: Mapping[str, float]) -> None:
        """Add what was read of `owner` now. A name that ends with MiB is memory, each other one a count."""
        seconds = time.monotonic() - self.begin
        for name, value in values.items():
            allowance = MEMORY_MIB if name.endswith("MiB") else COUNT
            self.by_quantity[Quantity(owner, name, allowance)].append(Reading(seconds, value))

    def trends(self) -> dict[Quantity, Trend]:
        """
        Raises:
            ValueError: there are too few readings.
        """
        trends = {}
        for quantity, readings in self.by_quantity.items():
            trends[quantity] = trend(readings, allowance=quantity.allowance)
        return trends


def of_process(pid: int) -> dict[str, float]:
    """
    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    process = psutil.Process(pid)
    with process.oneshot():
        return {
            "RSS, MiB": process.memory_info().rss / _MIB,
            "file descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "TCP connections": len(process.net_connections("tcp")),
            "child processes": len(process.children(recursive=True)),
        }


def of_folder(folder: Path) -> dict[str, float]:
    """How many files the folder has, in all its folders, and their size. Files may come and go meanwhile."""
    files = 0
    size = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            try:
                size += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue
            files += 1
    return {"files": files, "size, MiB": size / _MIB}


def of_database(engine: Engine) -> dict[str, float]:
    """Connections to this database, and those of them that keep a transaction open without a statement."""
    sessions = text(
        "SELECT count(*) AS connections, count(*) FILTER (WHERE state LIKE 'idle in transaction%' "
        "AND now() - state_change > interval '1 s') AS idle FROM pg_stat_activity WHERE datname = current_database()"
    )
    with engine.connect() as connection:
        row = connection.execute(sessions).one()
    return {"connections": row.connections, "idle in transaction for a second": row.idle}


def of_broker(client: Redis) -> dict[str, float]:
    """Memory, connections and keys of the broker."""
    memory = client.info("memory")["used_memory"]
    clients = client.info("clients")["connected_clients"]
    return {"memory, MiB": memory / _MIB, "connections": clients, "keys": client.dbsize()}


@dataclass(frozen=True)
class TableSize:
    size: int  # bytes, with indexes and long values
    live_rows: int
    dead_rows: int


def table_sizes(engine: Engine) -> dict[str, TableSize]:
    """The tables of the catalogue that are not empty."""
    query = text(
        "SELECT relname, pg_total_relation_size(relid) AS size, n_live_tup, n_dead_tup FROM pg_stat_user_tables "
        "WHERE pg_relation_size(relid) > 0 ORDER BY relname"
    )
    with engine.connect() as connection:
        return {row.relname: TableSize(row.size, row.n_live_tup, row.n_dead_tup) for row in connection.execute(query)}


def most_dead_rows(history: Sequence[Mapping[str, TableSize]]) -> dict[str, int]:
    """The largest number of dead rows that each table had at once."""
    most: dict[str, int] = {}
    for sizes in history:
        for table, size in sizes.items():
            most[table] = max(most.get(table, 0), size.dead_rows)
    return most
