"""Describe how to start an engine: images that can load it, commands, and the model repository of a Triton server."""

from __future__ import annotations

from pathlib import Path
from string import Template

from enginefarm.contract.serving import Launch, Layout, Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.work import Job
from toolchains.trtllm.releases.engine_part import VISION_ENGINE, is_encoder_decoder
from toolchains.trtllm.releases.images import images
from toolchains.trtllm.releases.model_family import family_names, find_family
from toolchains.trtllm.releases.release import find_release
from toolchains.trtllm.serving import decoding, encoder_decoder

_TRITON = Path(__file__).parent.parent / "triton"
_PYTHON_MODELS = ("preprocessing", "postprocessing")
_PARAMETER = 'parameters: {{ key: "{}" value: {{ string_value: "{}" }} }}\n'
_INPUT_MAP = '      input_map {{ key: "{0}" value: "{0}" }}\n'
_WHISPER_ASSETS = (
    "the engine's folder also needs mel_filters.npz and multilingual.tiktoken (gpt2.tiktoken of an English model) from "
    "whisper/assets of github.com/openai/whisper"
)
_WHISPER_OBSTACLE = (
    "Triton serves Whisper by a model of its own, whisper_bls: docs/whisper.md of triton-inference-server/"
    f"tensorrtllm_backend shows it; {_WHISPER_ASSETS}"
)
_VISION_OBSTACLE = (
    "Triton serves a model of images by an ensemble of its own: docs/multimodal.md of triton-inference-server/"
    "tensorrtllm_backend shows it; the engine of the images is in the folder vision"
)
_NOTES = (
    "start it in an image of this engine's release: `images` lists those that are known",
    "answers are streamed (decoupled): use the generate_stream or gRPC streaming endpoint, or set decoupled to false",
    "preprocessing and postprocessing need transformers, which the images have",
    "this layout was made from the backend's documentation; no Triton server was run by the farm",
)


def serving(job: Job) -> Serving:
    """How to start the engine of a build job: by the examples' own program and, if Triton can serve it, by Triton."""
    spec = job.spec
    parallelism = spec.parallelism
    has_encoder = is_encoder_decoder(job.facts.architecture)
    is_whisper = family_names().get(job.facts.architecture) == "whisper"
    family = find_family(job.facts.architecture)
    has_vision = family is not None and family.vision is not None
    launch = {"run": run_command(spec)}
    if is_whisper:
        launch = {"run": whisper_command(job.version)}
    elif has_vision:
        launch = {"run": vision_command(job.version)}
    layouts = {}
    without = {}
    obstacle = None
    if is_whisper:
        obstacle = _WHISPER_OBSTACLE
    elif has_vision:
        obstacle = _VISION_OBSTACLE
    elif has_encoder:
        obstacle = encoder_decoder.obstacle(spec, batching=_batching(spec))
    # A reason in place of the layout: people would take a layout that is only absent for an oversight.
    if obstacle:
        without["triton"] = obstacle
    else:
        launch["triton"] = triton_command(parallelism.world_size)
        layouts["triton"] = triton_layout(spec, has_encoder=has_encoder)
    return Serving(
        world_size=parallelism.world_size,
        ranks=parallelism.model_dump(),
        launch=launch,
        images=list(images(job.version)),
        layouts=layouts,
        without=without,
    )


def run_command(spec: BuildSpec) -> Launch:
    """The examples' own program, one process a rank."""
    ranks = spec.parallelism.world_size
    argv = []
    # Containers run as root, which mpirun refuses unless it is told otherwise.
    if ranks > 1:
        argv += ["mpirun", "-n", str(ranks), "--allow-run-as-root"]
    argv += ["python3", "/app/tensorrt_llm/examples/run.py", "--engine_dir", "{engine}", "--tokenizer_dir", "{engine}"]
    argv += ["--max_output_len", str(spec.limits.max_output_len)]
    return Launch(what="one prompt, in the release's image", argv=argv)


def whisper_command(version: str) -> Launch:
    """The examples' own program of Whisper, which transcribes a file of audio."""
    script = find_release(version).convert["whisper"].script
    program = Path("/app/tensorrt_llm/examples", script).with_name("run.py")
    argv = ["python3", str(program), "--engine_dir", "{engine}", "--assets_dir", "{engine}"]
    argv += ["--name", "test", "--input_file", "audio.wav"]
    return Launch(what=f"audio.wav, in the release's image; {_WHISPER_ASSETS}", argv=argv)


def vision_command(version: str) -> Launch:
    """The examples' own program of models of images and text, on both engines."""
    script = find_release(version).vision
    assert script is not None, "no release before 0.10 has such a family"
    program = Path("/app/tensorrt_llm/examples", script.script).with_name("run.py")
    # Of 0.16 and before; main of 2025 takes one --engine_dir, with the language model in its folder llm.
    argv = [
        "python3",
        str(program),
        "--visual_engine_dir",
        f"{{engine}}/{VISION_ENGINE}",
        "--llm_engine_dir",
        "{engine}",
    ]
    argv += ["--hf_model_dir", "MODEL", "--input_text", "Question: which city is this? Answer:"]
    return Launch(what="one image, in the release's image; MODEL is the model's own folder", argv=argv)


def triton_command(ranks: int) -> Launch:
    """One server a rank under one mpirun. Only the first one listens; the others run only the engine."""
    argv = ["mpirun", "--allow-run-as-root"]
    for rank in range(ranks):
        if rank:
            argv += [":"]  # separates the programs of mpirun
        argv += ["-n", "1", "tritonserver", "--model-repository={layout}", "--disable-auto-complete-config"]
        # Servers of one machine must not share the Python backend's shared memory.
        argv += [f"--backend-config=python,shm-region-prefix-name=prefix{rank}_"]
        if rank:
            argv += ["--model-control-mode=explicit", "--load-model=tensorrt_llm"]
            argv += ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
    return Launch(what="a Triton server on the layout `triton`", argv=argv)


def triton_layout(spec: BuildSpec, *, has_encoder: bool) -> Layout:
    """The model repository: an ensemble of preprocessing, engine and postprocessing."""
    parameters = decoding.parameters(spec.options)
    if has_encoder:
        parameters |= encoder_decoder.parameters()
    values: dict[str, str] = {
        **encoder_decoder.placeholders(is_encoder_decoder=has_encoder),
        "max_batch_size": str(spec.limits.max_batch_size),
        "max_beam_width": str(spec.limits.max_beam_width),
        "batching": _batching(spec),
        "inputs": "",
        "flat_inputs": "",
        "maps": "",
        "more": "".join(_PARAMETER.format(name, value) for name, value in parameters.items()),
    }
    # Tensors that only some engines take: inputs of the engine, and of the ensemble, which passes them on. The engine
    # removes the batch dimension again from tensors that have one value for each request.
    for name, tensor in decoding.inputs(spec.options, spec.precision.dtype).items():
        values["inputs"] += _input(name, tensor, tensor.shape)
        values["flat_inputs"] += _input(name, tensor, tensor.ensemble_shape)
        values["maps"] += _INPUT_MAP.format(name)

    files = {}
    for name in ("ensemble", "tensorrt_llm", *_PYTHON_MODELS):
        template = Template((_TRITON / f"{name}.pbtxt").read_text())
        files[f"{name}/config.pbtxt"] = template.substitute(values)
    # Triton looks for a Python model's code in the folder of its version.
    for name in _PYTHON_MODELS:
        files[f"{name}/1/model.py"] = (_TRITON / f"{name}.py").read_text()
    # Triton ignores a model without a version folder, though an ensemble has no files in it.
    return Layout(
        engine="tensorrt_llm/1", files=files, folders=["ensemble/1"], notes=[*_NOTES, *decoding.notes(spec.options)]
    )


def _input(name: str, tensor: decoding.Input, shape: str) -> str:
    fields = [f'name: "{name}"', f"data_type: {tensor.type}", f"dims: {tensor.dims}"]
    if shape:
        fields.append(shape)
    fields.append("optional: true")
    return ",\n  { " + " ".join(fields) + " }"


def _batching(spec: BuildSpec) -> str:
    """The value of gpt_model_type: in-flight batching needs packed input and a paged key/value cache."""
    options = spec.options
    has_packed_input = options.get("remove_input_padding") != "disable"
    has_paged_cache = options.get("paged_kv_cache") != "disable" and options.get("kv_cache_type") in (None, "paged")
    return "inflight_fused_batching" if has_packed_input and has_paged_cache else "V1"
