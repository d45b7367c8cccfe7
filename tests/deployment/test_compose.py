"""compose.yaml, without Docker: well-formed, pinned, no secrets in it, least privilege, and every process finds its
settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from api.app import create_app
from models.settings import PREFIX, Settings
from models.start import StartRefusedError
from tests.deployment.compose import (
    CHECKOUT,
    COMPOSE,
    Dockerfile,
    MissingVariable,
    dockerfile_of,
    environment_of,
    example,
    filled_example,
    interpolated,
)

SERVICES: dict[str, Any] = interpolated(filled_example())["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
SECRETS = {name for name, value in example().items() if not value and name != "HF_TOKEN"}

ours = pytest.mark.parametrize("name", OURS)


def test_follows_the_compose_specification() -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    checked = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_has_every_part() -> None:
    servers, set_ups = {"postgres", "redis", "store"}, {"accounts", "bucket", "migrate"}
    assert set(SERVICES) == servers | set_ups | {"api", "worker", "worker-trtllm"}
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["worker-trtllm"]


@ours
def test_environment_makes_settings(name: str) -> None:
    settings = Settings.from_environment(environment_of(SERVICES[name]))
    assert settings.store_url.startswith("s3://")
    assert None not in (settings.s3_endpoint, settings.s3_access_key, settings.s3_secret_key)
    assert f"//:{filled_example()['REDIS_PASSWORD']}@redis:" in settings.broker_url.get_secret_value()


# The account of each process: (in the database, its password's variable, in the store, its secret's variable).
ACCOUNTS = {
    "migrate": ("enginefarm_owner", "DATABASE_OWNER_PASSWORD", "enginefarm-api", "STORE_API_SECRET_KEY"),
    "api": ("enginefarm_api", "DATABASE_API_PASSWORD", "enginefarm-api", "STORE_API_SECRET_KEY"),
    "worker": ("enginefarm_worker", "DATABASE_WORKER_PASSWORD", "enginefarm-worker", "STORE_WORKER_SECRET_KEY"),
}
ACCOUNTS["worker-trtllm"] = ACCOUNTS["worker"]


@ours
def test_each_process_has_its_own_accounts_and_no_other_secret(name: str) -> None:
    database_user, database_password, access_key, secret_key = ACCOUNTS[name]
    values = distinct_secrets()
    environment = environment_of(interpolated(values)["services"][name])
    settings = Settings.from_environment(environment)
    url = make_url(settings.database_url.get_secret_value())
    assert (url.username, url.password, url.host) == (database_user, values[database_password], "postgres")
    assert settings.s3_access_key is not None
    assert settings.s3_access_key.get_secret_value() == access_key
    own = {values[secret] for secret in (database_password, secret_key, "REDIS_PASSWORD")}
    everything = str(interpolated(values)["services"][name])
    assert {value for value in secret_values(values) if value in everything} == own


@pytest.mark.parametrize(
    ("secret", "holders"),
    [("POSTGRES_PASSWORD", {"postgres", "accounts"}), ("STORE_INTERNAL_KEY", {"store", "bucket"})],
)
def test_no_container_of_the_farm_has_an_administrators_secret(secret: str, holders: set[str]) -> None:
    values = distinct_secrets()
    services = interpolated(values)["services"]
    assert {name for name, service in services.items() if values[secret] in str(service)} == holders
    assert holders.isdisjoint(OURS)


def distinct_secrets() -> dict[str, str]:
    """.env.example filled in with secrets that no other value contains."""
    return {name: value or f"secret-of-{name.lower()}-0123456789" for name, value in example().items()}


def secret_values(values: dict[str, str]) -> set[str]:
    return {values[name] for name in SECRETS}


def test_the_script_of_the_accounts_gets_the_passwords_that_the_processes_use() -> None:
    values = distinct_secrets()
    environment = environment_of(interpolated(values)["services"]["accounts"])
    script = (CHECKOUT / "docker" / "postgres" / "accounts.sql").read_text()
    for variable in re.findall(r"\\getenv \w+ (\w+)", script):
        assert environment[variable] == values[f"DATABASE_{variable}"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_has_no_privileges(name: str) -> None:
    """It runs as a user of its own, writes to its volumes and to memory only, and gains nothing by setuid programs."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert "no-new-privileges:true" in service["security_opt"]
    assert "/tmp" in service["tmpfs"]
    assert 0 < service["pids_limit"] <= 16384
    if "build" in service:
        assert dockerfile_of(service).all("USER")[-1] == "farm"
    else:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


@ours
def test_model_roots_are_mounted_read_only(name: str) -> None:
    settings = Settings.from_environment(environment_of(SERVICES[name]))
    volumes = [volume for volume in SERVICES[name]["volumes"] if ":" in volume and not volume.startswith("inputs:")]
    targets = [volume.rsplit(":", 2)[1:] for volume in volumes]
    assert [[str(root), "ro"] for root in settings.model_roots] == targets


def test_every_process_of_the_farm_has_the_same_settings_but_for_its_accounts() -> None:
    own = {"HOST", "PORT", "DATABASE_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY", "CACHE"}
    shared = [
        {name: value for name, value in environment_of(SERVICES[ours]).items()
         if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in own}
        for ours in OURS
    ]  # fmt: skip
    assert all(settings == shared[0] for settings in shared)


@pytest.mark.parametrize("name", ["worker", "worker-trtllm"])
def test_a_worker_has_scratch_of_its_own_on_disk(name: str) -> None:
    """A volume without a name belongs to one container; the folder in the image gives it its owner."""
    scratch = str(Settings.model_fields["scratch"].default)
    assert scratch in SERVICES[name]["volumes"]
    assert any(f"--owner farm {scratch}" in line for line in dockerfile_of(SERVICES[name]).all("RUN"))
    assert environment_of(SERVICES[name])["HF_HOME"].startswith(f"{scratch}/"), "in /tmp it would take memory"


@pytest.mark.parametrize("name", ["worker", "worker-trtllm"])
def test_the_workers_of_a_host_share_one_cache(name: str) -> None:
    """The folder in the image gives the volume its owner."""
    cache = environment_of(SERVICES[name])["ENGINEFARM_CACHE"]
    assert f"inputs:{cache}" in SERVICES[name]["volumes"]
    installs = [line for line in dockerfile_of(SERVICES[name]).all("RUN") if "--owner farm" in line]
    assert any(line.split("--owner farm")[1].split()[:2][-1] == cache for line in installs)


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_nothing_starts_without_its_secrets(secret: str) -> None:
    with pytest.raises(MissingVariable, match=secret):
        interpolated(filled_example() | {secret: ""})


def test_secrets_come_from_outside_only() -> None:
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "STORE_API_SECRET_KEY"} <= SECRETS
    asked_for = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert asked_for == SECRETS, "what is asked for is in .env.example, without a value"
    for dockerfile in (dockerfile_of(SERVICES[name]) for name in OURS):
        assert not re.search(r"(?i)password|secret|token", dockerfile.path.read_text())


def test_every_variable_is_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert set(example()) == used - {"PIP_EXTRA_INDEX_URL"}, "PIP_EXTRA_INDEX_URL is pip's own"


def test_ports_are_bound_to_this_machine() -> None:
    defaults = interpolated(dict.fromkeys(SECRETS, "x"))["services"]
    published = [port for service in defaults.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def _base(dockerfile: Dockerfile) -> str:
    """What FROM names, unless a build argument says otherwise."""
    (base, *_) = dockerfile.all("FROM")
    defaults = dict(argument.split("=", 1) for argument in dockerfile.all("ARG") if "=" in argument)
    return defaults.get(base.strip("${}"), base)


def test_images_are_pinned_by_digest() -> None:
    """`make pin-images` renews the digests. An image that is built here has the digest of its base."""
    assert all(SERVICES[name]["image"].endswith(":local") for name in OURS)
    foreign = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    bases = [_base(dockerfile_of(SERVICES[name])) for name in OURS if name != "worker-trtllm"]
    for image in [*foreign, *bases, example()["TRTLLM_IMAGE"]]:
        assert re.fullmatch(r"[a-z][\w./-]*:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_a_tag_has_one_digest_everywhere() -> None:
    files = [COMPOSE, CHECKOUT / ".env.example", *(CHECKOUT / "docker").glob("*.Dockerfile")]
    pinned = re.findall(
        r"([a-z0-9][\w./-]*:[\w.-]+)@(sha256:[0-9a-f]{64})", "".join(file.read_text() for file in files)
    )
    digest_by_tag = dict(pinned)
    assert set(pinned) == set(digest_by_tag.items())
    assert len(digest_by_tag) == 5


def test_named_volumes_are_declared() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    mounted = {volume.split(":")[0] for volume in volumes if ":" in volume}
    named = {name for name in mounted if not name.startswith((".", "/"))}
    assert named == set(interpolated(filled_example())["volumes"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_restarts_by_itself(name: str) -> None:
    runs_once = name in {"accounts", "bucket", "migrate"}
    assert SERVICES[name]["restart"] == ("on-failure:3" if runs_once else "unless-stopped")


def test_nothing_waits_for_health_that_nobody_checks() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[needed]["healthcheck"], needed


def test_health_check_asks_a_route_of_the_api(migrated: dict[str, str]) -> None:
    program = SERVICES["api"]["healthcheck"]["test"][-1]
    compile(program, "healthcheck", "exec")
    port, path = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", program)[0]
    environment = environment_of(SERVICES["api"])
    assert int(port) == Settings.from_environment(environment).port
    assert SERVICES["api"]["ports"][0].endswith(f":{port}")
    app = create_app(Settings.from_environment(migrated | {"ENGINEFARM_HOST": "127.0.0.1"}))
    assert path in app.openapi()["paths"]


@ours
def test_the_image_copies_existing_folders_that_dockerignore_lets_in(name: str) -> None:
    let_in = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = dockerfile_of(SERVICES[name]).copied
    assert copied
    for source in copied:
        assert (CHECKOUT / source).exists(), source
        assert source in let_in, f".dockerignore keeps {source} out"


@ours
def test_command_names_a_module_of_the_image(name: str) -> None:
    dockerfile = dockerfile_of(SERVICES[name])
    command = SERVICES[name].get("command", dockerfile.command)
    module = _module(command)
    found = find_spec(module)
    assert found is not None
    if found.submodule_search_locations:
        assert find_spec(f"{module}.__main__") is not None
    assert module.split(".")[0] in dockerfile.copied


@ours
def test_image_has_every_room_that_its_program_imports(name: str, tmp_path: Path) -> None:
    """The rooms alone, as the image has them, are enough to import the program."""
    dockerfile = dockerfile_of(SERVICES[name])
    command = SERVICES[name].get("command", dockerfile.command)
    for source in dockerfile.copied:
        if (CHECKOUT / source).is_dir():
            (tmp_path / source).symlink_to(CHECKOUT / source)
    # The editable install would find every room of the checkout: leave its folder out.
    program = (
        f"import sys; sys.path = [{str(tmp_path)!r}] + [p for p in sys.path if p not in ('', {str(CHECKOUT)!r})]; "
        f"import importlib; importlib.import_module('toolchains.registry').all_toolchains(); "
        f"importlib.import_module({_entry(_module(command))!r})"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def _module(command: list[str]) -> str:
    """What `python -m` runs."""
    return command[command.index("-m") + 1]


def _entry(module: str) -> str:
    found = find_spec(module)
    return f"{module}.__main__" if found is not None and found.submodule_search_locations else module


def test_gpu_worker_gets_a_gpu_and_its_release() -> None:
    worker = SERVICES["worker-trtllm"]
    # By CDI: the toolkit's other way covers /proc/driver/nvidia, and then the sandbox gets no /proc of its own.
    assert worker["devices"] == [f"nvidia.com/gpu={example()['GPU']}"]
    assert "deploy" not in worker
    dockerfile = dockerfile_of(worker)
    assert worker["build"]["args"] == {"BASE": example()["TRTLLM_IMAGE"]}
    assert interpolated(dict.fromkeys(SECRETS, "x"))["services"]["worker-trtllm"]["build"] == worker["build"]
    assert dockerfile.all("FROM")[-1] == "${BASE}"
    assert dockerfile.all("ARG")[:2] == ["TRTLLM_VERSION", "BASE=nvcr.io/nvidia/tensorrt-llm/release:${TRTLLM_VERSION}"]


def test_gpu_worker_knows_its_image() -> None:
    dockerfile = dockerfile_of(SERVICES["worker-trtllm"])
    assert dockerfile.all("ARG")[2:] == ["BASE"], "what is said before FROM is forgotten after it"
    assert "ENGINEFARM_IMAGE=${BASE}" in dockerfile.all("ENV")


def test_gpu_worker_leaves_the_programs_of_its_image_alone() -> None:
    """`python3` and `trtllm-build` must be found where NVIDIA put them, not in the farm's own environment."""
    dockerfile = dockerfile_of(SERVICES["worker-trtllm"])
    assert Path(dockerfile.command[0]).is_absolute()
    assert not any("PATH=" in line for line in dockerfile.all("ENV"))
    assert "-I" in dockerfile.command, "a PYTHONPATH of the image is not for the worker"


@pytest.fixture
def migrated(tmp_path: Path) -> dict[str, str]:
    """The API's environment on a catalogue and a store of this test, set up by the command of `migrate`."""
    environment = environment_of(SERVICES["api"]) | {
        "ENGINEFARM_DATABASE_URL": f"sqlite:///{tmp_path}/catalogue.db",
        "ENGINEFARM_STORE_URL": f"file://{tmp_path}/store",
    }
    _run(SERVICES["migrate"]["command"], environment)
    return environment


def test_first_run(migrated: dict[str, str]) -> None:
    """The API refuses until the documented command has made a key, and says which command that is."""
    settings = Settings.from_environment(migrated)
    with pytest.raises(StartRefusedError, match=r"python -m api\.keys create NAME --scope admin"):
        create_app(settings)
    documented = "docker compose run --rm api python -m api.keys create admin --scope admin"
    assert documented in (CHECKOUT / "docs" / "operations.md").read_text()
    key = _run(documented.removeprefix("docker compose run --rm api ").split(), migrated)
    assert re.fullmatch(r"ef_\w+_\S+\n", key)
    create_app(settings)


def _run(command: list[str], environment: dict[str, str]) -> str:
    assert command[0] == "python"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEFARM_")}
    ran = subprocess.run(
        [sys.executable, *command[1:]], cwd=CHECKOUT, env=inherited | environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
