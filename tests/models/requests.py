"""Make requests, workers, claims and manifests for tests of the catalogue."""

from __future__ import annotations

from enginefarm.contract import digest
from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.key import key_of
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job, Work
from enginefarm.wire.bodies import Capability
from models.catalogue.database import Database
from models.fleet.registration import register
from models.lifecycle.leases import Claim, claim_action
from models.lifecycle.submission import Accepted, NewAction, Request, submit

CPU = Platform(arch="x86_64", cpu_isa="x86-64-v3")
HOST = Host(name="box", cpu="some", cores=2, memory_gib=8)


SPEC = BuildSpec.parse(
    {
        "model": "hf:org/tiny@" + "0" * 40,
        "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 64, "max_output_len": 64},
    }
)
FACTS = ModelFacts(
    architecture="LlamaForCausalLM", weight_bytes=1, has_safetensors=True, has_pickle=False, has_tokenizer=True,
    remote_code=False,
)  # fmt: skip


def new_work(stage: Stage) -> Work:
    """The work of a stage, valid but never run: tests of the catalogue have no toolchain."""
    platform = CPU if stage is Stage.BUILD else None
    job = Job(stage=stage, toolchain="aoti", version="2.13.0", spec=SPEC, facts=FACTS, platform=platform)
    return Work(job=job)


def new_request(model: str = "llama", limits: str = "small", queue: str = "build.q") -> Request:
    """A request for an engine and its checkpoint. Equal arguments make equal keys."""
    convert_document = {"document": "c", "model": {"name": model}}
    convert = NewAction(key_of(convert_document), Stage.CONVERT, "convert.q", convert_document, new_work(Stage.CONVERT))
    build_document = {"document": "b", "convert": convert.key, "limits": limits, "platform": {}}
    build = NewAction(key_of(build_document), Stage.BUILD, queue, build_document, new_work(Stage.BUILD))
    return Request(
        convert=convert,
        build=build,
        model=model,
        toolchain="aoti",
        version="2.13.0",
        spec={"model": model},
        platform=CPU.model_dump(),
        platform_label=CPU.label(),
        requested_by=None,
    )


def submit_request(database: Database, build_request: Request) -> Accepted:
    with database.write() as session:
        return submit(session, build_request)


def add_worker(database: Database, name: str = "w1", queues: tuple[str, ...] = ("convert.q", "build.q")) -> str:
    """Register a live worker for both stages; returns its id, which is its name."""
    capabilities = [Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT, Stage.BUILD])]
    with database.write() as session:
        register(session, name, name, Fingerprint(platform=CPU, host=HOST), capabilities, queues)
    return name


def claim_now(database: Database, key: str, worker: str = "w1", lease: float = 30) -> Claim:
    """Claim an action that the worker can claim at once, for `lease` seconds."""
    with database.write() as session:
        claim = claim_action(session, key, worker, lease_seconds=lease)
    assert claim is not None
    return claim


def one_file_manifest(text: str = "engine") -> Manifest:
    """The manifest of a directory with one file, `config.json`, that contains `text`."""
    data = text.encode()
    return Manifest.of([FileEntry(path="config.json", digest=digest.of_bytes(data), size=len(data))])


# What `publish_engine` records about an engine besides its key and manifest.
ENGINE = {
    "model": "llama", "toolchain": "aoti", "version": "2.13.0", "platform": CPU.model_dump(), "bound_to": {},
    "driver_binding": "branch", "spec": {}, "provenance": {},
}  # fmt: skip
