"""The locks of requirements/ agree with pyproject.toml and constraints.txt, and bills of materials with the locks."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs.generators.software_bill import BILLS, LOCKS, LockedPackage, bill, read_lock
from tests.deployment.compose import CHECKOUT, Dockerfile
from tests.imported_later import ImportedLater

if TYPE_CHECKING:
    import cyclonedx.validation.json as validation
else:
    validation = ImportedLater("cyclonedx.validation.json")

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
# Lock → the extras of pyproject.toml that it has.
EXTRAS = {
    "node": (), "server": ("server",), "worker": ("server", "aoti"), "demo": ("server", "embedded", "aoti", "demo"),
    "dev": ("server", "embedded", "aoti", "demo", "dev"),
}  # fmt: skip
ALL_LOCKS = (*EXTRAS, "torch", "uv", "weights")
# Which build of them fits depends on the machine: requirements/torch.txt has those of the default index.
OF_TORCH = re.compile(r"torch|triton|cuda-.*|nvidia-(?!ml-py).*")

PINNED: dict[str, str] = {
    canonicalize_name(name): version
    for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", (CHECKOUT / "constraints.txt").read_text())
}


def packages(lock: str) -> dict[str, LockedPackage]:
    return {package.name: package for package in read_lock(LOCKS / f"{lock}.txt")}


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_has_everything_that_pyproject_asks_for(lock: str) -> None:
    """`make lock` after a change of pyproject.toml or constraints.txt."""
    locked = packages(lock)
    extras: Iterable[list[str]] = (PROJECT["optional-dependencies"][extra] for extra in EXTRAS[lock])
    for text in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        required = Requirement(text)
        name = canonicalize_name(required.name)
        if not OF_TORCH.fullmatch(name):
            assert name in locked, f"{name} is not in requirements/{lock}.txt: run `make lock`"
            assert locked[name].version in required.specifier, f"{text}: run `make lock`"


@pytest.mark.parametrize("lock", ALL_LOCKS)
def test_a_lock_has_hashes_and_the_versions_that_the_tests_passed_with(lock: str) -> None:
    for package in packages(lock).values():
        assert package.hashes
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in package.hashes)
        elsewhere = "win32" in str(package.requirement.marker) or "emscripten" in str(package.requirement.marker)
        if lock in EXTRAS and not elsewhere:
            assert PINNED.get(package.name) == package.version, f"{package.name}: constraints.txt, then `make lock`"


def test_torch_is_locked_apart() -> None:
    assert all(OF_TORCH.fullmatch(name) for name in packages("torch"))
    assert packages("torch")["torch"].version == PINNED["torch"]
    for lock in EXTRAS:
        assert [name for name in packages(lock) if OF_TORCH.fullmatch(name)] == []


def test_one_version_of_a_package_in_all_locks() -> None:
    everything = packages("dev")
    for lock in EXTRAS:
        for name, package in packages(lock).items():
            assert (package.version, package.hashes) == (everything[name].version, everything[name].hashes)


@pytest.mark.parametrize(
    ("image", "locks"), [("api", {"server"}), ("trtllm", {"uv", "server"}), ("worker", {"worker", "torch"})]
)
def test_an_image_installs_hashed_packages_only(image: str, locks: set[str]) -> None:
    dockerfile = Dockerfile.read(CHECKOUT / "docker" / f"{image}.Dockerfile")
    installs = [
        command
        for line in dockerfile.all("RUN")
        for command in re.split(r"&&|;", line)
        if re.search(r"pip .*\binstall\b", command)
    ]
    hashed = [command for command in installs if "--require-hashes" in command]
    assert {lock for command in hashed for lock in re.findall(r"requirements/(\w+)\.txt", command)} == locks
    for command in set(installs) - set(hashed):
        checkout = "--no-deps --no-build-isolation --editable ." in command
        chosen_index = "torch" in command and "$PIP_EXTRA_INDEX_URL" in str(dockerfile.all("RUN"))
        assert checkout or chosen_index, command
    assert all("--no-deps" in command for command in hashed), "a lock is complete"


@pytest.mark.parametrize("name", BILLS)
def test_a_bill_of_materials_is_valid_and_complete(name: str) -> None:
    text = JsonV1Dot6(bill(name)).output_as_string()
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    components = {component["name"]: component for component in document["components"]}
    locked = {package.name: package for lock in BILLS[name] for package in packages(lock).values()}
    assert components.keys() == locked.keys()
    for package in locked.values():
        component = components[package.name]
        assert component["purl"] == f"pkg:pypi/{package.name}@{package.version}"
        assert component["version"] == package.version
        assert {entry["content"] for entry in component["hashes"]} == set(package.hashes)
        assert component["licenses"]
    # Only what is not installed where the bill is made lacks a licence.
    unknown = {name for name, component in components.items() if "unknown" in json.dumps(component["licenses"])}
    assert all(OF_TORCH.fullmatch(name) or locked[name].requirement.marker for name in unknown), unknown
    assert document["metadata"]["component"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
