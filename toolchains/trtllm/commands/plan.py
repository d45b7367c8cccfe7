"""Write the commands of each stage. Every option of a command line comes from the release's option tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.inputs import CALIBRATION, substitute
from toolchains.toolchain import Command, Directories
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.context.conversion import Conversion, checkpoint_folder, conversion_of
from toolchains.trtllm.context.tokens import default_max_num_tokens, default_opt_num_tokens, takes_output_length
from toolchains.trtllm.releases.engine_part import VISION_ENGINE, VISION_MODEL, EnginePart, engine_parts
from toolchains.trtllm.releases.model_family import Vision, find_family
from toolchains.trtllm.releases.precision_recipe import recipe_table
from toolchains.trtllm.releases.release import ReleaseDescriptor, find_release

_CARRY_TOKENIZER = Path(__file__).parent / "carry_tokenizer.py"
_NAME_DATA_SET = Path(__file__).parent / "name_data_set.py"
_COPY_VISION_MODEL = Path(__file__).parent / "copy_vision_model.py"
_WHISPER_WEIGHTS = Path(__file__).parent / "whisper_weights.py"
_WHISPER_FILE = Path(__file__).parent / "whisper_file.py"
_TENSORS_ONLY = Path(__file__).parent / "tensors_only.py"
TIMING_CACHE = "model.cache"  # below the scratch directory


def commands(job: Job, directories: Directories, installation: Installation) -> tuple[Command, ...]:
    """The programs of a stage, in order; the last copies the tokenizer, and the first may prepare what they read."""
    release = find_release(job.version)
    is_stripped = job.stage is Stage.BUILD and bool(job.spec.options.get("strip_plan"))
    if job.stage is Stage.CONVERT:
        programs = convert_commands(job, directories, installation)
    elif is_stripped:
        # Engines without weights first, then the same engines with weights.
        without_weights = replace(directories, output=stripped_engine(directories))
        programs = list(build_commands(job, without_weights, release, installation))
        programs.append(refit_command(directories, release, installation))
    else:
        programs = list(build_commands(job, directories, release, installation))

    family = find_family(job.facts.architecture)
    if job.stage is Stage.BUILD and family is not None and family.vision is not None:
        programs.append(vision_command(job, directories, release, family.vision, installation))

    # Caches in the home directory go to scratch. Nothing is fetched: the model's files are complete.
    environment = {"HOME": str(directories.scratch), "HF_HUB_OFFLINE": "1"}
    conversion = conversion_of(job)
    if job.stage is Stage.CONVERT and conversion is not None:
        environment |= conversion.environment
    # Each program reports its own progress from 0 to 1, so each gets an equal part of the stage. trtllm-refit is short,
    # and its log lines are read as the last hundredths of a build.
    share = 1 / len(programs)
    planned = []
    readable = (installation.examples, *installation.folders)
    for index, argv in enumerate(programs):
        span = (index * share, (index + 1) * share)
        if is_stripped:
            span = (0.0, 1.0)
        planned.append(Command(argv, environment, span, readable=readable))
    names = _data_set_names(job)
    if names:
        data = directories.inputs[CALIBRATION]
        name_argv = (sys.executable, "-I", str(_NAME_DATA_SET), str(data), *map(str, names))
        planned.insert(0, Command(name_argv, span=(0.0, 0.0)))
    if job.stage is Stage.CONVERT and conversion is not None and conversion.loads_pickles:
        # The image's Python has PyTorch; the worker's need not.
        weights_argv = (installation.python, "-I", str(_TENSORS_ONLY), *_quantized_weights(directories))
        planned.insert(0, Command(weights_argv, span=(0.0, 0.0), readable=readable))
    # -I, because the worker's own interpreter runs this program in a directory of downloaded files.
    copy_argv = (sys.executable, "-I", str(_CARRY_TOKENIZER), str(directories.source), str(directories.output))
    return (*planned, Command(copy_argv))


def _data_set_names(job: Job) -> tuple[str, ...]:
    """Folders below the scratch directory, in which programs start, that calibration data get."""
    conversion = conversion_of(job)
    if job.stage is not Stage.CONVERT or conversion is None or job.spec.calibration is None:
        return ()
    return conversion.data_set_names(job.spec.calibration)


def _quantized_weights(directories: Directories) -> list[str]:
    """The folder of the weights that tensors_only.py writes, and the files that it loads."""
    weights = recipe_table().quantized_weights
    folder = directories.inputs[weights.option]
    return [str(directories.scratch / weights.option), *(str(folder / name) for name in weights.files)]


def stripped_engine(directories: Directories) -> Path:
    """The directory of an engine built without weights, before trtllm-refit adds them."""
    return directories.scratch / "stripped"


def convert_commands(job: Job, directories: Directories, installation: Installation) -> list[tuple[str, ...]]:
    """One conversion script, and before it what makes the script's source.

    A script for draft heads may read a checkpoint of the base model, and that of Whisper a file of OpenAI's form.
    """
    conversion = conversion_of(job)
    assert conversion is not None, "preflight refuses specs that no script converts"
    programs = []
    # The base model's checkpoint goes to scratch: a worker publishes only what is in the output directory.
    if conversion.base:
        base_checkpoint = directories.scratch / "base"
        programs.append(_script(conversion.base, job, replace(directories, output=base_checkpoint), installation))
        directories = replace(directories, source=base_checkpoint)
    family = find_family(job.facts.architecture)
    if family is not None and family.vision is not None:
        # -I, because the worker's own interpreter runs this program in a directory of downloaded files.
        link = directories.scratch / "llava"
        copy = (str(directories.source), str(directories.output / VISION_MODEL), str(link))
        programs.append((sys.executable, "-I", str(_COPY_VISION_MODEL), *copy))
        directories = replace(directories, source=link)
    if family is not None and family.reads_openai_file:
        # Two programs: the one that loads a caller's pickle writes none.
        folder = directories.scratch / "whisper"
        programs.append((installation.python, "-I", str(_WHISPER_WEIGHTS), str(directories.source), str(folder)))
        programs.append((installation.python, "-I", str(_WHISPER_FILE), str(folder)))
        directories = replace(directories, source=folder)
    programs.append(_script(conversion, job, directories, installation))
    return programs


def _script(conversion: Conversion, job: Job, directories: Directories, installation: Installation) -> tuple[str, ...]:
    inputs = _input_directories(directories)
    names = conversion.data_set_names(job.spec.calibration)
    if names:
        inputs[CALIBRATION] = str(directories.scratch / names[0])
    if conversion.loads_pickles:
        option = recipe_table().quantized_weights.option
        inputs[option] = str(directories.scratch / option)
    arguments = conversion.arguments(
        source=str(directories.source), output=str(directories.output), inputs=inputs,
        precision=job.spec.precision, parallelism=job.spec.parallelism,
        options=substitute(job.spec.options, inputs),
        trusted=job.facts.trusted,
    )  # fmt: skip
    return (installation.python, str(installation.examples / conversion.script.script), *arguments)


def build_commands(
    job: Job, directories: Directories, release: ReleaseDescriptor, installation: Installation
) -> Iterator[tuple[str, ...]]:
    """One trtllm-build for each part of the engine. The second starts with the timing cache that the first wrote."""
    spec = job.spec
    table = release.build_table.by_name
    options = substitute(spec.options, _input_directories(directories))
    for part in engine_parts(job.facts.architecture):
        argv = [installation.build_program]
        argv += ["--checkpoint_dir", str(directories.source / checkpoint_folder(job, part))]
        argv += ["--output_dir", str(directories.output / part.folder)]

        for name, option in release.build_options_of(job.facts.architecture).items():
            value = part.fixed_options.get(name, options.get(name, option.default))
            argv += option.argv(value, spec.precision.dtype)
        argv += limit_arguments(job, release, part)

        # The cache is read at the start, if it exists, and written at the end. Before 0.9 one option names both files.
        cache_options = ["timing_cache"]
        if "input_timing_cache" in table:
            cache_options = ["input_timing_cache", "output_timing_cache"]
        for name in cache_options:
            argv += [table[name].flag, str(directories.scratch / TIMING_CACHE)]

        # One rank a GPU: a second builder on the same GPU would take its memory.
        workers = max(1, min(installation.gpus, spec.parallelism.world_size))
        argv += table["workers"].argv(workers)
        yield tuple(argv)


def vision_command(
    job: Job, directories: Directories, release: ReleaseDescriptor, vision: Vision, installation: Installation
) -> tuple[str, ...]:
    """Make the engine of a model's images from the model, which the conversion copied to the checkpoint."""
    assert release.vision is not None, "no release before 0.10 has such a family"
    table = release.vision.options.by_name
    architecture = job.facts.architecture
    argv = [installation.python, str(installation.examples / release.vision.script)]
    argv += table["model_type"].argv(vision.model_types[architecture])
    argv += table["model_path"].argv(str(directories.source / VISION_MODEL))
    argv += table["output_dir"].argv(str(directories.output / VISION_ENGINE))
    images = job.spec.limits.max_batch_size * vision.images_of_sequence[architecture]
    return (*argv, table["max_batch_size"].flag, str(images))


def limit_arguments(job: Job, release: ReleaseDescriptor, part: EnginePart) -> Iterator[str]:
    """Batch size and lengths are always written; other limits only if trtllm-build would choose another value."""
    limits = job.spec.limits
    table = release.build_table
    yield from (table.by_name["max_batch_size"].flag, str(limits.max_batch_size))
    for name, length in part.lengths(limits).items():
        if name == "max_seq_len" and takes_output_length(table):
            yield from (table.by_name["max_output_len"].flag, str(limits.max_output_len))
        else:
            yield from (table.by_name[name].flag, str(length.value))
    yield from table.by_name["max_beam_width"].argv(limits.max_beam_width)
    if not part.has_token_limits:
        return
    if limits.max_num_tokens != default_max_num_tokens(limits, table):
        yield from table.by_name["max_num_tokens"].argv(limits.max_num_tokens)
    if limits.opt_num_tokens not in (None, default_opt_num_tokens(limits)):
        yield from table.by_name["opt_num_tokens"].argv(limits.opt_num_tokens)


def refit_command(directories: Directories, release: ReleaseDescriptor, installation: Installation) -> tuple[str, ...]:
    """Add weights to an engine that was built without. They must be those of the checkpoint that it was built from."""
    table = release.refit_table
    assert table is not None, "preflight refuses strip_plan for releases without trtllm-refit"
    argv = [installation.refit_program]
    argv += [table.by_name["checkpoint_dir"].flag, str(directories.source)]
    argv += [table.by_name["engine_dir"].flag, str(stripped_engine(directories))]
    argv += [table.by_name["output_dir"].flag, str(directories.output)]
    return tuple(argv)


def _input_directories(directories: Directories) -> dict[str, str]:
    return {name: str(path) for name, path in directories.inputs.items()}
