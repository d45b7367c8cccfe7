"""`make sbom`: a bill of materials in CycloneDX JSON for the wheel and for each image of the farm.

It lists what a lock in `requirements/` names: every package with its version, the SHA-256 of every file that pip may
install for it, its licence and its package URL. Licences are those that the packages installed here declare. A package
that is not installed here, such as CUDA's on a machine without a GPU, has the licence `unknown`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from enginefarm.version import __version__

LOCKS = Path(__file__).resolve().parents[2] / "requirements"
# What each bill describes → the locks that it consists of.
BILLS = {
    "enginefarm-wheel": ("node",),
    "enginefarm-api": ("server",),
    "enginefarm-worker": ("worker", "torch"),
    "enginefarm-worker-trtllm": ("server",),  # without what NVIDIA's image has
}


@dataclass(frozen=True)
class LockedPackage:
    """One package of a lock; `hashes` are the SHA-256 digests, in hex, of the files that pip may install."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        return specifier.version


def read_lock(path: Path) -> Iterator[LockedPackage]:
    """The packages of a requirements file with hashes."""
    joined = path.read_text().replace("\\\n", " ")
    for line in joined.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        yield LockedPackage(Requirement(requirement), tuple(hashes))


def bill(name: str) -> Bom:
    """The bill of materials of `name`, one of `BILLS`."""
    described = Component(
        name=name,
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref=name,
        purl=PackageURL("pypi", None, "enginefarm", __version__) if name == "enginefarm-wheel" else None,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
    )
    document = Bom()
    document.metadata.component = described
    components = [component(package) for lock in BILLS[name] for package in read_lock(LOCKS / f"{lock}.txt")]
    for part in components:
        document.components.add(part)
    document.register_dependency(described, components)
    return document


def component(package: LockedPackage) -> Component:
    """The entry of one package."""
    url = PackageURL("pypi", None, package.name, package.version)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(url),
        purl=url,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.hashes],
        licenses=[licence(package.name)],
    )


def licence(name: str) -> License:
    """The licence that the installed package declares, by its SPDX name where it has one."""
    try:
        declared = metadata(name).json
    except PackageNotFoundError:
        return LicenseFactory().make_with_name("unknown")
    expression = declared.get("license_expression")
    if expression:
        return LicenseFactory().make_from_string(str(expression))
    classifiers = declared.get("classifier", [])
    names = [classifier.split(" :: ")[-1] for classifier in classifiers if classifier.startswith("License :: ")]
    text = " AND ".join(names) or str(declared.get("license") or "unknown").splitlines()[0]
    return LicenseFactory().make_with_name(text)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in BILLS:
        path = folder / f"{name}.cdx.json"
        path.write_text(JsonV1Dot6(bill(name)).output_as_string(indent=2))
        print(path)


if __name__ == "__main__":
    main()
