"""compose.yaml, without Docker: well-formed, pinned, no secrets in it, and every farm service finds its settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from api.app import StartRefusedError, create_app
from models.settings import Settings
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
    assert set(SERVICES) == {"postgres", "redis", "minio", "migrate", "api", "worker", "worker-trtllm"}
    assert [name for name, service in SERVICES.items() if service.get("profiles")] == ["worker-trtllm"]


@ours
def test_environment_makes_settings(name: str) -> None:
    settings = Settings.from_environment(environment_of(SERVICES[name]))
    assert settings.store_url.startswith("s3://")
    assert None not in (settings.s3_endpoint, settings.s3_access_key, settings.s3_secret_key)
    database = settings.database_url.get_secret_value()
    assert f":{filled_example()['POSTGRES_PASSWORD']}@postgres:" in database
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"] in database
    assert f"//:{filled_example()['REDIS_PASSWORD']}@redis:" in settings.broker_url.get_secret_value()


@ours
def test_model_roots_are_mounted_read_only(name: str) -> None:
    settings = Settings.from_environment(environment_of(SERVICES[name]))
    targets = [volume.rsplit(":", 2)[1:] for volume in SERVICES[name]["volumes"]]
    assert [[str(root), "ro"] for root in settings.model_roots] == targets


def test_every_process_of_the_farm_has_the_same_settings() -> None:
    """But the API, which listens."""
    environments = {name: environment_of(SERVICES[name]) for name in OURS}
    listening = {"ENGINEFARM_HOST", "ENGINEFARM_PORT"}
    shared = {name: value for name, value in environments["api"].items() if name not in listening}
    assert all(environments[name] == shared for name in OURS if name != "api")


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_nothing_starts_without_its_secrets(secret: str) -> None:
    with pytest.raises(MissingVariable, match=secret):
        interpolated(filled_example() | {secret: ""})


def test_secrets_come_from_outside_only() -> None:
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "MINIO_ROOT_PASSWORD"} <= SECRETS
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


def test_images_are_pinned() -> None:
    bases = [_base(dockerfile_of(SERVICES[name])) for name in OURS]
    for image in [service["image"] for service in SERVICES.values()] + bases:
        _, colon, tag = image.rpartition(":")
        assert colon, image
        assert tag, image
        assert tag != "latest", image


def test_named_volumes_are_declared() -> None:
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    named = {name for name in mounted if not name.startswith((".", "/"))}
    assert named == set(interpolated(filled_example())["volumes"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_restarts_by_itself(name: str) -> None:
    assert SERVICES[name]["restart"] == ("on-failure:3" if name == "migrate" else "unless-stopped")


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
    assert command[1] == "-m"
    found = find_spec(command[2])
    assert found is not None
    if found.submodule_search_locations:
        assert find_spec(f"{command[2]}.__main__") is not None
    assert command[2].split(".")[0] in dockerfile.copied


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
        f"importlib.import_module({_entry(command[2])!r})"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def _entry(module: str) -> str:
    found = find_spec(module)
    return f"{module}.__main__" if found is not None and found.submodule_search_locations else module


def test_gpu_worker_gets_a_gpu_and_its_release() -> None:
    worker = SERVICES["worker-trtllm"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    dockerfile = dockerfile_of(worker)
    (argument,) = worker["build"]["args"]
    assert dockerfile.all("FROM") == ["${BASE}"]
    assert dockerfile.all("ARG")[:2] == [argument, f"BASE=nvcr.io/nvidia/tensorrt-llm/release:${{{argument}}}"]
    assert worker["image"].endswith(f":{worker['build']['args'][argument]}")


def test_gpu_worker_knows_its_image() -> None:
    dockerfile = dockerfile_of(SERVICES["worker-trtllm"])
    assert dockerfile.all("ARG")[2:] == ["BASE"], "what is said before FROM is forgotten after it"
    assert "ENGINEFARM_IMAGE=${BASE}" in dockerfile.all("ENV")


def test_gpu_worker_leaves_the_programs_of_its_image_alone() -> None:
    """`python3` and `trtllm-build` must be found where NVIDIA put them, not in the farm's own environment."""
    dockerfile = dockerfile_of(SERVICES["worker-trtllm"])
    assert Path(dockerfile.command[0]).is_absolute()
    assert not any("PATH=" in line for line in dockerfile.all("ENV"))


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
