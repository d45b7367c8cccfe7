"""The farm's settings: one frozen, typed object per process, read where the process starts.

Every setting is an environment variable `ENGINEFARM_<NAME>`. An unknown name is refused: a misspelt setting would
silently keep its default.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AnyHttpUrl, Field, SecretStr, field_validator
from pydantic_core import from_json
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enginefarm.contract.portable import PortableName
from enginefarm.wire.retention import Policy
from models.sources.trust import Trust
from models.store.s3_settings import Addressing

PREFIX = "ENGINEFARM_"
# Read by the command line and by the tests, not by the servers.
_NOT_OF_SERVERS = frozenset(
    {
        "URL",
        "API_KEY",
        "CACHE",
        "TRUSTED_KEYS",
        "REVOCATIONS_MAX_AGE",
        "TEST_S3_URL",
        "TEST_POSTGRES_URL",
        "TRTLLM_EXAMPLES",
    }
)
# Settings of earlier releases, which a running farm may still have: accepted, and said to be without effect.
_FORMER = {PREFIX + "OFFLINE_STAGES": "programs of a stage never have a network in the sandbox (ENGINEFARM_SANDBOX)"}

log = logging.getLogger(__name__)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    # Where things are
    database_url: SecretStr = Field(description="postgresql://user:password@host/db, or sqlite:////path")
    broker_url: SecretStr = Field(description="redis://[:password@]host:port/n, Celery's broker")
    store_url: str = Field(description="s3://bucket/prefix, or file:///path for a folder that every process sees")
    s3_endpoint: AnyHttpUrl | None = Field(default=None, description="the S3 server; http:// or https://")
    s3_public_endpoint: AnyHttpUrl | None = Field(default=None, description="the S3 server as clients reach it")
    s3_region: str = Field(default="us-east-1", description="region that requests to the S3 server are signed for")
    s3_addressing: Addressing = Field(
        default="auto",
        description="where a URL names the bucket: in the `path`, in the host's name (`virtual`), or as the host "
        "expects (`auto`)",
    )
    s3_access_key: SecretStr | None = Field(
        default=None,
        description="S3 access key; if both keys are unset: the standard chain of AWS clients (environment, shared "
        "files, web identity, role)",
    )
    s3_secret_key: SecretStr | None = Field(default=None, description="S3 secret key")

    # Models
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="folders that `file:` models may be in, joined by ':'"
    )
    trusted_models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="models whose own Python code may run and whose pickles may be loaded in a conversion, joined by "
        "',': hf:org/name@commit, file:/path or s3://bucket/prefix",
    )
    hf_endpoint: AnyHttpUrl | None = Field(
        default=None, description="the hub that `hf:` models are fetched from; HF_ENDPOINT if unset"
    )
    hf_token: SecretStr | None = Field(
        default=None, description="token for gated models; programs of toolchains do not get it"
    )
    hf_redirect_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="networks in CIDR form, joined by ',', that the hub may redirect to although they are not public, "
        "such as the network of a mirror's store",
    )
    models_s3_endpoint: AnyHttpUrl | None = Field(
        default=None, description="the S3 server that `s3:` models are fetched from"
    )
    models_s3_access_key: SecretStr | None = Field(
        default=None,
        description="access key for `s3:` models; if unset, they are read from public buckets only",
    )
    models_s3_secret_key: SecretStr | None = Field(default=None, description="secret key for `s3:` models")
    models_s3_standard_chain: bool = Field(
        default=False,
        description="read `s3:` models with keys of the standard chain, as for the store: every submitter may then "
        "build any model that these keys may read",
    )

    # Keys
    driver_binding: Literal["branch", "exact"] = Field(
        default="branch",
        description="`branch`: an engine is bound to the branch of its driver (580); `exact`: to the driver's full "
        "version",
    )

    # The control plane
    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port that the API listens on")
    max_connections: int = Field(default=1000, ge=1, description="most connections that one API process has at once")
    max_connections_per_peer: int = Field(
        default=250, ge=1, description="most connections that one API process has with one address at once"
    )
    proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="addresses or networks of proxies before the API, joined by ',': they pass on many clients, so "
        "the limit for one address does not hold for them",
    )
    watchers_per_key: int = Field(
        default=200, ge=1, description="most requests of one API key that wait for changes of builds at once"
    )
    public_url: AnyHttpUrl | None = Field(
        default=None, description="address of the API as clients reach it, if a proxy is in between; base of its links"
    )
    link_secret: SecretStr | None = Field(
        default=None,
        description="secret that signs links to files of a folder store, 16 bytes or more; the same for all API "
        "processes",
    )
    signing_key: Path | None = Field(
        default=None,
        description="PEM file with the Ed25519 key that signs attestations of engines; unset: no signatures",
    )
    old_signing_keys: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="PEM files, joined by ':', with the public keys that signed before; listed in GET /v1/signing-keys",
    )
    import_trusted_keys: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="PEM files, joined by ':', with the public keys of the farms whose engines may be imported; unset: "
        "nothing is imported",
    )
    builder_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$",
        description="URI of this farm in what it signs; a urn:uuid: of the catalogue if unset",
    )
    revocations_hours: float = Field(
        default=24.0, gt=0, le=8760, description="how long a signed list of recalled engines is valid"
    )
    link_seconds: int = Field(default=3600, ge=10, description="how long a link to a file is valid")
    sweep_seconds: float = Field(default=2.0, gt=0, description="pause between two rounds of the sweep")

    # Clean-up
    retention: Annotated[tuple[Policy, ...], NoDecode] = Field(
        default=(),
        description="retention policies as JSON; the first that fits an engine decides; without any, engines stay "
        "until they are deleted or withdrawn",
    )
    gc_hours: float | None = Field(
        default=None, gt=0, description="hours between two clean-ups by the API; unset: only when one is requested"
    )
    gc_grace_seconds: float = Field(
        default=86400.0,
        ge=0,
        description="time between marking something for removal and removing it; an engine's bytes wait once more",
    )
    gc_checkpoint_days: float = Field(
        default=7.0,
        ge=0,
        description="age at which a checkpoint is removed if no engine that was built from it remains",
    )

    # Leases and attempts
    lease_seconds: float = Field(
        default=16.0, ge=1, description="a worker that does not renew its lease for this long loses its action"
    )
    max_tries: int = Field(default=3, ge=1, description="number of attempts after which an action fails")
    quarantine_after: int = Field(
        default=3, ge=1, description="number of different actions that must fail in a row on a worker to quarantine it"
    )
    worker_seconds: float = Field(
        default=30.0, ge=2, description="a worker that does not report for this long is listed as gone"
    )

    # The worker
    worker_name: PortableName | None = Field(default=None, description="name in listings; the host's name if unset")
    image: str | None = Field(
        default=None, description="the container image that the worker runs in; recorded with the worker"
    )
    scratch: Path = Field(
        default=Path("/var/tmp/enginefarm"),  # noqa: S108  # one owner-only folder per job below it
        description="folder in which a worker keeps the files of a running stage",
    )
    stage_seconds: float = Field(
        default=4 * 3600,
        gt=0,
        description="longest time that a stage may take, from the claim to the end of its upload: fetch, programs, "
        "check and upload together",
    )
    silence_seconds: float = Field(
        default=3600,
        gt=0,
        description="longest time that a program of a stage may print nothing, and that the check of its output may "
        "take",
    )
    stage_disk_bytes: int | None = Field(
        default=None,
        gt=0,
        description="most bytes that a stage may have on the scratch disk, source and output included; its output may "
        "not be longer either",
    )
    stage_memory_bytes: int | None = Field(
        default=None,
        gt=0,
        description="most memory that a stage may take; needs a cgroup that the host delegates to the worker",
    )
    stage_processes: int = Field(
        default=8192, ge=16, description="most processes and threads that a stage may have at once"
    )
    sandbox: Literal["required", "auto", "off"] = Field(
        default="required",
        description="`required`: the worker does not start where programs of a stage cannot be isolated completely; "
        "`auto`: it starts, isolates them as far as it can, and refuses models' own code; `off`: no isolation",
    )
    kill_seconds: float = Field(
        default=5.0, gt=0, description="time that a stage's programs have to end after SIGTERM, before SIGKILL"
    )
    use_gpu: bool = Field(default=True, description="false: the worker builds for the CPU even if it has a GPU")

    @field_validator("model_roots", "old_signing_keys", "import_trusted_keys", mode="before")
    @classmethod
    def _split_at_colons(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(Path(path) for path in value.split(":") if path)

    @field_validator("retention", mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return from_json(value)

    @field_validator("trusted_models", "hf_redirect_networks", "proxies", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        # Blanks are allowed, because a long list is easier to read with a blank or a line end after each comma.
        items = [item.strip() for item in value.split(",")]
        return tuple(filter(None, items))

    @field_validator("trusted_models")
    @classmethod
    def _require_pinned(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Trust(value)  # raises ValueError for a hub model without a commit: its code could change
        return value

    @field_validator("model_roots")
    @classmethod
    def _require_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        relative = [str(path) for path in value if not path.is_absolute()]
        if relative:
            raise ValueError(f"expected absolute paths, got {', '.join(relative)}")
        return value

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `environment` (default: the process's) and check them.

        Raises:
            ValueError: settings are unknown, missing or invalid. It names every one, but no value: that may be secret.
        """
        variables: Mapping[str, str] = os.environ
        if environment is not None:
            variables = environment
        # huggingface_hub's own variable is the default, because nodes that use a mirror have it set already.
        field_by_variable = {PREFIX + name.upper(): name for name in cls.model_fields}
        values: dict[str, Any] = {"hf_endpoint": variables.get("HF_ENDPOINT") or None}
        unknown = []
        for variable, value in sorted(variables.items()):
            if variable in _FORMER:
                log.warning("%s has no effect any more: %s", variable, _FORMER[variable])
            elif variable in field_by_variable:
                values[field_by_variable[variable]] = value
            elif variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in _NOT_OF_SERVERS:
                unknown.append(variable)
        if unknown:
            # All of them at once, so that an operator need not start the process again for each.
            plural = ""
            if len(unknown) > 1:
                plural = "s"
            raise ValueError(f"unknown setting{plural} {', '.join(unknown)}: docs/settings.md lists all of them")
        return cls(**values)
