"""Settings of the command line, read from the environment once, when it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from enginefarm.client.farm import DEFAULT_URL, Farm
from enginefarm.transfer.node_cache import Cache
from enginefarm.trust.signature_policy import SignaturePolicy, revocations_max_age, trusted_key_files


@dataclass(frozen=True)
class Settings:
    """The farm to call, and what this node keeps and trusts."""

    url: str
    api_key: str | None = field(repr=False)  # a traceback or a log must not show it
    cache: Cache
    trusted_keys: tuple[Path, ...] = ()
    revocations_max_age: float | None = None  # seconds

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings. An empty variable counts as not set, because CI systems set unused ones to nothing."""
        return cls(
            url=environment.get("ENGINEFARM_URL") or DEFAULT_URL,
            api_key=environment.get("ENGINEFARM_API_KEY") or None,
            cache=Cache.of(environment),
            trusted_keys=trusted_key_files(environment),
            revocations_max_age=revocations_max_age(environment),
        )

    def signature_policy(self, keys: Sequence[Path] = (), max_age: float | None = None) -> SignaturePolicy:
        """Return what this node requires of engines; arguments that are given replace the settings."""
        if max_age is None:
            max_age = self.revocations_max_age
        return SignaturePolicy(keys or self.trusted_keys, self.cache.revocations, max_age)

    def farm(self) -> Farm:
        """Return a client of the farm. Use it as a context manager."""
        return Farm(self.url, self.api_key)


pass_settings = click.make_pass_decorator(Settings)
