"""One worker of a host fetches a file, and the others wait for it."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

from enginefarm.contract.manifest import Manifest
from tests.farm.running_farm import eventually
from tests.workers.inputs.conftest import FILES, Node


def test_eight_workers_at_once_fetch_each_file_once(node: Node, checkpoint: Manifest) -> None:
    node.store.gate.clear()
    builds = [threading.Thread(target=node.build, args=(node.inputs(), checkpoint)) for _ in range(8)]
    for build in builds:
        build.start()
    assert eventually(lambda: len(node.lines) >= 7 * len(FILES), seconds=5)
    node.store.gate.set()
    for build in builds:
        build.join(10)
    assert sorted(node.store.fetched) == sorted(entry.digest for entry in checkpoint.files)
    assert "waits: another worker or pull of this host is fetching rank0.safetensors" in node.lines


def test_a_cancel_ends_a_fetch_and_those_that_wait_for_it(node: Node, checkpoint: Manifest) -> None:
    node.store.gate.clear()
    errors: list[type[BaseException]] = []

    def fetch() -> None:
        try:
            node.build(node.inputs(), checkpoint)
        except InterruptedError as error:
            errors.append(type(error))

    fetches = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in fetches:
        thread.start()
    assert eventually(lambda: len(node.lines) >= len(FILES), seconds=5)
    node.is_stopped.set()
    for thread in fetches:
        thread.join(2)
    assert errors == [InterruptedError, InterruptedError]
    assert node.cache.entries() == []


def test_a_cancel_ends_a_wait_while_another_worker_goes_on_fetching(node: Node, checkpoint: Manifest) -> None:
    ended = threading.Event()

    def fetch() -> None:
        with suppress(InterruptedError):
            node.build(node.inputs(), checkpoint)
        ended.set()

    with ExitStack() as others:
        for entry in checkpoint.files:
            others.enter_context(node.cache.locked(entry.digest, lambda: None))
        threading.Thread(target=fetch).start()
        assert eventually(lambda: len(node.lines) == len(FILES), seconds=5)
        node.is_stopped.set()
        assert ended.wait(2)


def test_a_worker_takes_over_when_the_one_that_fetches_fails(node: Node, checkpoint: Manifest) -> None:
    entry = checkpoint.files[0]
    with node.cache.locked(entry.digest, lambda: None):
        waiting = threading.Thread(target=node.build, args=(node.inputs(), checkpoint))
        waiting.start()
        assert eventually(lambda: node.lines, seconds=5)
    waiting.join(10)
    assert not waiting.is_alive()
    assert entry.digest in node.store.fetched
