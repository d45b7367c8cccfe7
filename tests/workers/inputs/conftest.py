"""A node's cache, a store that counts, and attempts that fetch their inputs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from enginefarm.contract.digest import Digest, Watch, ignore_progress, of_bytes
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.work import Work
from enginefarm.transfer.node_cache import Cache
from models.sources import AuxiliarySource, FileSource, HubSource, MemoryDigestCache, Sources
from models.store.directory import DirectoryStore
from models.store.links import Links
from tests.models.store.blobs import put_bytes
from workers.inputs.input_files import InputFiles
from workers.inputs.node_inputs import Caller, Fetched, NodeInputs
from workers.scratch.workspace import Workspace

FILES = {"config.json": b"{}", "rank0.safetensors": b"weights " * 40_000, "rank1.safetensors": b"others " * 40_000}


class CountingStore(DirectoryStore):
    """`fetched` has the digest of each fetch; `gate` holds fetches back until it is set."""

    fetched: list[Digest]
    gate: threading.Event

    def fetch(self, digest: Digest, size: int, destination: Path, watch: Watch = ignore_progress) -> None:
        self.fetched.append(digest)
        while not self.gate.wait(0.01):
            watch(0)
        super().fetch(digest, size, destination, watch)


@dataclass
class Node:
    """The workers of one host. Each call of `inputs` is another worker process."""

    folder: Path
    store: CountingStore
    sources: Sources
    lines: list[str] = field(default_factory=list)
    is_stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache")

    def inputs(self, *, may_link: bool = True, cache: Cache | None = None) -> NodeInputs:
        return NodeInputs(InputFiles(self.store, self.sources), cache or self.cache, may_link=may_link)

    def caller(self) -> Caller:
        return Caller(self.keep_going, self.lines.append)

    def keep_going(self) -> None:
        if self.is_stopped.is_set():
            raise InterruptedError("cancelled")

    def workspace(self) -> Workspace:
        return Workspace.make(self.folder / "scratch")

    def build(self, inputs: NodeInputs, checkpoint: Manifest, workspace: Workspace | None = None) -> Fetched:
        """Fetch the checkpoint of a build, check its bytes, and end the attempt unless `workspace` is given."""
        used = workspace or self.workspace()
        fetched = inputs.fetch(work(), checkpoint, used, self.caller())
        source = used.directories.source
        assert {path.name: path.read_bytes() for path in source.iterdir()} == FILES
        if workspace is None:
            used.remove()
        return fetched


def work(**parts: Any) -> Work:
    """The work of a stage, of which only the inputs matter here."""
    return Work.model_construct(job=cast(Any, None), **{"model": None, "inputs": {}, **parts})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    store = CountingStore(tmp_path / "store", Links(b"x" * 32))
    store.fetched, store.gate = [], threading.Event()
    store.gate.set()
    store.prepare()
    digests = MemoryDigestCache()
    sources = Sources(
        HubSource("http://127.0.0.1:9"),
        FileSource([tmp_path / "models"], digests),
        AuxiliarySource([tmp_path / "models"], digests),
    )
    made = Node(tmp_path, store, sources)
    yield made
    # A test that has failed must not leave a thread that waits for ever.
    made.is_stopped.set()
    store.gate.set()


@pytest.fixture
def checkpoint(node: Node) -> Manifest:
    for content in FILES.values():
        put_bytes(node.store, content)
    return Manifest.of(
        FileEntry(path=path, digest=of_bytes(content), size=len(content)) for path, content in FILES.items()
    )
