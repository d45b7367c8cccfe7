"""The farm's settings: one frozen, typed object per process, read where the process starts.

Every setting is an environment variable `ENGINEFARM_<NAME>`. An unknown name is refused: a misspelt setting would
silently keep its default. An empty variable is not set. Variables that describe a Kubernetes Service are no settings.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import from_json

from enginefarm.contract.portable import PortableName
from enginefarm.wire.retention import Policy
from models.outbound.header_values import require_header_value
from models.service_variables import service_variables
from models.setting_problems import invalid_settings, unknown_setting
from models.sources.trust import Trust
from models.start import SettingsError
from models.store.links import LONGEST, SHORTEST_SECRET
from models.store.opening import store_location
from models.store.s3_settings import Addressing

PREFIX = "ENGINEFARM_"
# Read by the command line, by the tests and by benchmarks, not by the servers.
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
        "BENCH_GIB",
    }
)
# Settings of earlier releases, which a running farm may still have: accepted, and said to be without effect.
_FORMER = {PREFIX + "OFFLINE_STAGES": "programs of a stage never have a network in the sandbox (ENGINEFARM_SANDBOX)"}

_HUB_VARIABLE = "HF_ENDPOINT"  # huggingface_hub's own

log = logging.getLogger(__name__)


# A path of ENGINEFARM_PUBLIC_URL, and its first parts that would be taken for the API's own paths.
_PUBLIC_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_OWN_PATHS = frozenset({"v1", "v2", "docs", "redoc", "openapi.json", "healthz", "readyz"})
_TEN_YEARS = 3650 * 86400.0  # seconds; a longer time leads out of the calendar


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Where things are
    database_url: SecretStr = Field(description="postgresql://user:password@host/db, or sqlite:////path")
    broker_url: SecretStr = Field(
        description="redis://[[user]:password@]host:port/n, rediss:// for TLS, unix:///path?db=n or "
        "sentinel://host:port/n?master_name=name: the Redis or Valkey server of the queue"
    )
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
    model_roots: tuple[Path, ...] = Field(
        default=(), description="folders that `file:` models may be in, joined by ':'"
    )
    trusted_models: tuple[str, ...] = Field(
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
    hf_redirect_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="networks in CIDR form, joined by ',', that the hub may redirect to although they are not public, "
        "such as the network of a mirror's store",
    )
    models_s3_endpoint: AnyHttpUrl | None = Field(
        default=None, description="the S3 server that `s3:` models are fetched from; http:// or https://, no path"
    )
    models_s3_region: str | None = Field(
        default=None,
        description="region that requests for `s3:` models are signed for; ENGINEFARM_S3_REGION if unset",
    )
    models_s3_addressing: Addressing = Field(
        default="auto", description="as ENGINEFARM_S3_ADDRESSING, for `s3:` models"
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
    proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
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
    old_signing_keys: tuple[Path, ...] = Field(
        default=(),
        description="PEM files, joined by ':', with the public keys that signed before; listed in GET /v1/signing-keys",
    )
    import_trusted_keys: tuple[Path, ...] = Field(
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
    link_seconds: int = Field(
        default=3600, ge=10, le=int(LONGEST.total_seconds()), description="how long a link to a file is valid"
    )
    sweep_seconds: float = Field(default=2.0, gt=0, le=3600, description="pause between two rounds of the sweep")

    # Clean-up
    retention: tuple[Policy, ...] = Field(
        default=(),
        description="retention policies as JSON; the first that fits an engine decides; without any, engines stay "
        "until they are deleted or withdrawn",
    )
    gc_hours: float | None = Field(
        default=None,
        gt=0,
        le=_TEN_YEARS / 3600,
        description="hours between two clean-ups by the API; unset: only when one is requested",
    )
    gc_grace_seconds: float = Field(
        default=86400.0,
        ge=0,
        le=_TEN_YEARS,
        description="time between marking something for removal and removing it; an engine's bytes wait once more",
    )
    past_build_days: float = Field(
        default=365.0,
        gt=0,
        le=_TEN_YEARS / 86400,
        description="days for which the API keeps builds that have ended, and actions, attempts, logs and workers that "
        "nothing needs any more (at least one day); engines stay, with their provenance and the last build of each",
    )
    gc_checkpoint_days: float = Field(
        default=7.0,
        ge=0,
        le=_TEN_YEARS / 86400,
        description="age at which a checkpoint is removed if no engine that was built from it remains",
    )

    # Leases and attempts
    lease_seconds: float = Field(
        default=16.0,
        ge=1,
        le=86400,
        description="a worker that does not renew its lease for this long loses its action",
    )
    max_tries: int = Field(default=3, ge=1, le=1000, description="number of attempts after which an action fails")
    quarantine_after: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="number of different actions that must fail in a row on a worker to quarantine it",
    )
    worker_seconds: float = Field(
        default=30.0, ge=2, le=86400, description="a worker that does not report for this long is listed as gone"
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
    worker_cache: Path | Literal["off"] | None = Field(
        default=None,
        description="folder of the cache of inputs that the workers and pulls of a host share; `off`: none. If it is "
        "not set: the folder that ENGINEFARM_CACHE names, else `enginefarm` in the user's cache folder. On the file "
        "system of ENGINEFARM_SCRATCH, a cached input takes no room of its own in an attempt",
    )
    worker_cache_bytes: int | None = Field(
        default=None,
        gt=0,
        le=1 << 60,
        description="most bytes that the worker keeps in the cache, the most recently used; half of its disk if it is "
        "not set",
    )
    stage_seconds: float = Field(
        default=4 * 3600,
        gt=0,
        le=_TEN_YEARS,
        description="longest time that a stage may take, from the claim to the end of its upload: fetch, programs, "
        "check and upload together",
    )
    silence_seconds: float = Field(
        default=3600,
        gt=0,
        le=_TEN_YEARS,
        description="longest time that a program of a stage may print nothing, and that the check of its output may "
        "take",
    )
    stage_disk_bytes: int | None = Field(
        default=None,
        gt=0,
        le=1 << 60,
        description="most bytes that a stage may have on the scratch disk, source and output included; its output may "
        "not be longer either",
    )
    stage_memory_bytes: int | None = Field(
        default=None,
        gt=0,
        le=1 << 60,
        description="most memory that a stage may take; needs a cgroup that the host delegates to the worker",
    )
    stage_processes: int = Field(
        default=8192, ge=16, le=1 << 22, description="most processes and threads that a stage may have at once"
    )
    sandbox: Literal["required", "auto", "off"] = Field(
        default="required",
        description="`required`: the worker does not start where programs of a stage cannot be isolated completely; "
        "`auto`: it starts, isolates them as far as it can, and refuses models' own code; `off`: no isolation",
    )
    kill_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="time that a stage's programs have to end after SIGTERM, before SIGKILL"
    )
    use_gpu: bool = Field(default=True, description="false: the worker builds for the CPU even if it has a GPU")
    slots: Literal["one", "per-gpu"] = Field(
        default="one",
        description="`one`: the worker runs one stage at a time, on all GPUs that it sees; `per-gpu`: a stage on each "
        "GPU, and each GPU is listed as a worker of its own",
    )

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
        try:
            return from_json(value)
        except ValueError as error:
            raise ValueError(f"expected a list as JSON: {error}") from None

    @field_validator("hf_redirect_networks", "proxies", mode="before")
    @classmethod
    def _parse_networks(cls, value: object) -> object:
        if not isinstance(value, tuple):
            return value
        networks = []
        for item in value:
            try:
                networks.append(ip_network(item))
            except ValueError as error:
                raise ValueError(f"expected addresses or networks such as 10.0.0.0/8: {error}") from None
        return tuple(networks)

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

    @field_validator("model_roots", "scratch", "worker_cache")
    @classmethod
    def _require_absolute(
        cls, value: Path | tuple[Path, ...] | Literal["off"] | None
    ) -> Path | tuple[Path, ...] | Literal["off"] | None:
        if value is None or value == "off":
            return value
        paths = (value,) if isinstance(value, Path) else value
        relative = [str(path) for path in paths if not path.is_absolute()]
        if relative:
            raise ValueError(f"expected absolute paths, got {', '.join(relative)}")
        for path in paths:
            try:
                real_path = path.resolve()
            except (OSError, RuntimeError):  # the latter by Python 3.12 and older
                raise ValueError(f"expected a folder, and {path} is a loop of links") from None
            if not _is_text(str(real_path)):
                raise ValueError(f"expected a path in UTF-8, and {path} is a link to {ascii(str(real_path))[1:-1]}")
        return value

    @field_validator("store_url")
    @classmethod
    def _require_store_form(cls, value: str) -> str:
        store_location(value)  # raises ValueError
        return value

    @field_validator("link_secret")
    @classmethod
    def _require_long_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            length = len(value.get_secret_value().encode())
            if length < SHORTEST_SECRET:
                raise ValueError(f"expected {SHORTEST_SECRET} bytes or more, got {length}")
        return value

    @field_validator("hf_token", "s3_access_key", "s3_secret_key", "models_s3_access_key", "models_s3_secret_key")
    @classmethod
    def _require_sendable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_header_value(value.get_secret_value())
        return value

    @field_validator("public_url")
    @classmethod
    def _require_plain_url(cls, value: AnyHttpUrl | None) -> AnyHttpUrl | None:
        if value is None:
            return None
        parts = urlsplit(str(value))
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("expected a URL without user, query and fragment")
        if not _PUBLIC_PATH.fullmatch(parts.path):
            raise ValueError("expected a path of plain names, such as https://farm.example/engines")
        if parts.path.split("/")[1] in _OWN_PATHS:
            raise ValueError("expected another path: the API itself has paths that begin so")
        return value

    @property
    def public_path(self) -> str:
        """The path of the public URL without a slash at its end; empty if it has none."""
        if self.public_url is None:
            return ""
        return (self.public_url.path or "").rstrip("/")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `environment` (default: the process's) and check them.

        White space around a value is removed, and an empty variable is not set: Compose and CI systems set unused
        variables to nothing, and files of secrets end with a line break.

        Raises:
            SettingsError: settings are unknown, missing or invalid. It names every one, and the value of no secret.
        """
        variables: Mapping[str, str] = os.environ
        if environment is not None:
            variables = environment
        set_variables = {}
        for variable, value in sorted(variables.items()):
            if variable.upper().startswith(PREFIX) or variable == _HUB_VARIABLE:
                stripped = value.strip()
                if stripped:
                    set_variables[variable] = stripped
        services = service_variables(set_variables, PREFIX.removesuffix("_"))
        if services:
            _log_services(services)

        variable_by_field = {name: PREFIX + name.upper() for name in cls.model_fields}
        field_by_variable = {variable: name for name, variable in variable_by_field.items()}
        values: dict[str, Any] = {}
        # All that is wrong at once, so that an operator need not start the process again for each.
        problems = []
        for variable, value in set_variables.items():
            if variable in services:
                continue
            if variable in _FORMER:
                log.warning("%s has no effect any more: %s", variable, _FORMER[variable])
            elif not _is_text(value):
                problems.append(f"{ascii(variable)[1:-1]}: expected text in UTF-8")
            elif variable in field_by_variable:
                values[field_by_variable[variable]] = value
            elif variable != _HUB_VARIABLE and variable.removeprefix(PREFIX) not in _NOT_OF_SERVERS:
                names = {name.upper() for name in cls.model_fields} | _NOT_OF_SERVERS
                problems.append(unknown_setting(variable, PREFIX, names))
        # huggingface_hub's own variable is the default, because nodes that use a mirror have it set already.
        if "hf_endpoint" not in values and _HUB_VARIABLE in set_variables:
            values["hf_endpoint"] = set_variables[_HUB_VARIABLE]
            variable_by_field["hf_endpoint"] = _HUB_VARIABLE
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems += invalid_settings(error, cls.model_fields, variable_by_field, values)
        if problems:
            raise SettingsError("\n".join(problems))
        return settings


def _is_text(value: str) -> bool:
    """False if the variable has bytes that are not UTF-8: PostgreSQL and JSON could not take them."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _log_services(services: Mapping[str, str]) -> None:
    """Say in one line that variables of services are ignored."""
    taken = [variable for variable in services if variable.removeprefix(PREFIX).lower() in Settings.model_fields]
    effect = ""
    if taken:
        effect = f"; the default of {' and '.join(taken)} holds"
    log.warning(
        "ignored %s: Kubernetes or Docker set them for services of these names: %s%s",
        ", ".join(sorted(services)), ", ".join(sorted(set(services.values()))), effect,
    )  # fmt: skip
