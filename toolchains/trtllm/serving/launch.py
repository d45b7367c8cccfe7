"""How an engine is started, the images that load it, and the model repository that a Triton server reads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Template

from packaging.version import Version
from pydantic import TypeAdapter

from enginefarm.contract.serving import Image, Launch, Layout, Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.work import Job
from toolchains.trtllm.releases.data_file import DATA, FrozenModel, Source
from toolchains.trtllm.releases.engine_part import is_encoder_decoder
from toolchains.trtllm.serving import decoding as speculation
from toolchains.trtllm.serving import encoder_decoder as halves_served

_TRITON = Path(__file__).parent.parent / "triton"
_PYTHON_MODELS = ("preprocessing", "postprocessing")
_PARAMETER = 'parameters: {{ key: "{}" value: {{ string_value: "{}" }} }}\n'
_MAP = '      input_map {{ key: "{0}" value: "{0}" }}\n'
_NOTES = (
    "start it in an image of this engine's release: `images` lists those that are known",
    "answers are streamed (decoupled): use the generate_stream or gRPC streaming endpoint, or set decoupled to false",
    "preprocessing and postprocessing need transformers, which the images have",
    "this layout was made from the backend's documentation; no Triton server was run by the farm",
)


class _Served(FrozenModel):
    version: str
    image: str
    has: Mapping[str, str]


class _ReleaseImage(FrozenModel):
    image: str
    since: str
    source: str


class _Images(FrozenModel):
    description: str
    source: Source
    images: tuple[_Served, ...]
    release_image: _ReleaseImage


def serving(job: Job) -> Serving:
    world, two = job.spec.parallelism, is_encoder_decoder(job.facts.architecture)
    why_not = halves_served.obstacle(job.spec, batching=_batching(job.spec)) if two else None
    return Serving(
        world_size=world.world_size,
        ranks=world.model_dump(),
        launch={"run": _run(job.spec)} | ({} if why_not else {"triton": _triton(world.world_size)}),
        images=list(images(job.version)),
        layouts={} if why_not else {"triton": _layout(job.spec, two=two)},
        without={"triton": why_not} if why_not else {},
    )


def images(version: str) -> tuple[Image, ...]:
    """Those that are stated to have exactly this release; none if no source says so."""
    known = _images()
    found = [
        Image(image=served.image, has={"tensorrt_llm": version, **served.has}, source=known.source.how)
        for served in known.images
        if served.version == version
    ]
    if Version(version) >= Version(known.release_image.since):
        name = f"{known.release_image.image}:{version}"
        found.append(Image(image=name, has={"tensorrt_llm": version}, source=known.release_image.source))
    return tuple(found)


@cache
def _images() -> _Images:
    return TypeAdapter(_Images).validate_json((DATA / "images.json").read_bytes())


def _run(spec: BuildSpec) -> Launch:
    """The examples' own program, one process a rank."""
    ranks = spec.parallelism.world_size
    mpi = ["mpirun", "-n", str(ranks), "--allow-run-as-root"] if ranks > 1 else []
    argv = ["python3", "/app/tensorrt_llm/examples/run.py", "--engine_dir", "{engine}", "--tokenizer_dir", "{engine}"]
    length = ["--max_output_len", str(spec.limits.max_output_len)]
    return Launch(what="one prompt, in the release's image", argv=[*mpi, *argv, *length])


def _triton(ranks: int) -> Launch:
    """One server a rank under one mpirun; only the first one listens, the others hold the engine alone."""
    argv = ["mpirun", "--allow-run-as-root"]
    for rank in range(ranks):
        argv += ["-n", "1", "tritonserver", "--model-repository={layout}", "--disable-auto-complete-config"]
        argv += [f"--backend-config=python,shm-region-prefix-name=prefix{rank}_"]
        if rank:
            argv += ["--model-control-mode=explicit", "--load-model=tensorrt_llm"]
            argv += ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
        argv += [":"]
    return Launch(what="a Triton server on the layout `triton`", argv=argv[:-1])


def _layout(spec: BuildSpec, *, two: bool) -> Layout:
    parameters = [*speculation.parameters(spec.options), *(halves_served.parameters().items() if two else ())]
    values = {
        **halves_served.places(two=two),
        "max_batch_size": spec.limits.max_batch_size,
        "max_beam_width": spec.limits.max_beam_width,
        "batching": _batching(spec),
        **_inputs(spec),
        "more": "".join(_PARAMETER.format(*said) for said in parameters),
    }
    configurations = {
        f"{name}/config.pbtxt": Template((_TRITON / f"{name}.pbtxt").read_text()).substitute(values)
        for name in ("ensemble", "tensorrt_llm", *_PYTHON_MODELS)
    }
    models = {f"{name}/1/model.py": (_TRITON / f"{name}.py").read_text() for name in _PYTHON_MODELS}
    return Layout(
        engine="tensorrt_llm/1", files=configurations | models, folders=["ensemble/1"],
        notes=[*_NOTES, *speculation.notes(spec.options)],
    )  # fmt: skip


def _inputs(spec: BuildSpec) -> dict[str, str]:
    """Tensors that only some engines take: for the engine itself, and for the ensemble that hands them on.

    The engine takes the batch's dimension away again where a request has one value.
    """
    known = speculation.inputs(spec.options, spec.precision.dtype)
    lines = {name: (_input(name, one, one.shape), _input(name, one, one.flat)) for name, one in known.items()}
    return {
        "inputs": "".join(ours for ours, _ in lines.values()),
        "flat_inputs": "".join(flat for _, flat in lines.values()),
        "maps": "".join(_MAP.format(name) for name in lines),
    }


def _input(name: str, one: speculation.Input, shape: str) -> str:
    parts = (f'name: "{name}"', f"data_type: {one.type}", f"dims: {one.dims}", shape, "optional: true")
    return ",\n  { " + " ".join(part for part in parts if part) + " }"


def _batching(spec: BuildSpec) -> str:
    """In-flight batching needs packed input and a paged key/value cache."""
    options = spec.options
    packed = options.get("remove_input_padding") != "disable"
    paged = options.get("paged_kv_cache") != "disable" and options.get("kv_cache_type") in (None, "paged")
    return "inflight_fused_batching" if packed and paged else "V1"
