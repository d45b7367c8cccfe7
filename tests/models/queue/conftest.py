"""A broker of its own for tests that change its configuration or make it fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.servers.redis import Valkey
from tests.servers.server import new_data_dir

StartValkey = Callable[[Mapping[str, str]], Valkey]


@pytest.fixture
def start_valkey() -> Iterator[StartValkey]:
    """Starts a Valkey with these options; it is gone after the test."""
    with ExitStack() as stack:

        def start(options: Mapping[str, str]) -> Valkey:
            data = new_data_dir("broker")
            stack.callback(shutil.rmtree, data)
            return stack.enter_context(Valkey(data, options))

        yield start


@pytest.fixture
def own_valkey(start_valkey: StartValkey) -> Valkey:
    return start_valkey({})
