"""Inspect a model's files at submit: read `config.json` and the first bytes of the others.

Conversions find the same faults, but minutes later. Whole files are not read here: sizes come from the listing, and the
header of a safetensors file says how long the file must be.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Set
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, replace

from enginefarm.contract.errors import SourceUnavailable
from enginefarm.contract.model.facts import ModelFacts
from models.outbound import time_limit
from models.sources.inspection.config_facts import MAX_CONFIG_BYTES, config_too_large, read_facts
from models.sources.inspection.damage import (
    LFS_POINTER,
    START_BYTES,
    Damage,
    damaged,
    find_damage,
    find_json_damage,
    is_lfs_pointer,
)
from models.sources.inspection.file_names import (
    CONFIG,
    NEEDS_PROCESSOR,
    PREPROCESSOR,
    QUANTIZATION,
    WEIGHTS_INDEX,
    is_weights,
)
from models.sources.inspection.safetensors_header import BadHeader, header_end, tensor_dtypes
from models.sources.inspection.selection import Repository
from models.sources.inspection.weights import INDEXES, ReadStart, only_adapter, read_index
from models.sources.inspection.whisper_pickle import MAX_PICKLE_BYTES, pickles_without_config, read_pickle_facts
from models.sources.rejection import refusal

logger = logging.getLogger(__name__)

_PARALLEL_READS = 8
# A submit waits for it. The files of a model with 70 shards take about 2 s of a hub.
INSPECTION_SECONDS = 15.0
# One read has the whole header of most files: with 70 shards, a header has 30 KB.
_FIRST_READ_BYTES = 128 << 10
# Larger headers, of files with 150,000 tensors, are left to the conversion: parsed, they fill too much memory.
_MAX_PARSED_HEADER_BYTES = 16 << 20
# Tensors that an index may name although no file has them: tied to another tensor, or computed when a model is loaded.
_OPTIONAL_TENSORS = ("lm_head.weight", ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True)
class _Start:
    """What the first bytes of a file tell."""

    damage: Damage | None = None
    tensors: Mapping[str, str] | None = None  # dtypes of a safetensors file; None if its header was not read


_Check = Callable[[str, int, ReadStart], _Start]


class Inspector:
    """Inspects the models of one source. All submits share its threads, so that a slow source ties up few of them.

    A file whose first bytes do not arrive within `seconds` is left to the conversion: a slow source must not keep
    models out of the farm.
    """

    def __init__(self, *, seconds: float = INSPECTION_SECONDS) -> None:
        self._pool = ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="inspection")
        self._parsing = threading.Lock()
        self._seconds = seconds

    def read_model(
        self, reference: object, sizes: Mapping[str, int], names: Collection[str], read: ReadStart, *, trusted: bool
    ) -> ModelFacts:
        """Check the selected files of a model and return its facts.

        Args:
            reference: the model, for error texts.
            sizes: bytes of each selected file.
            names: every file of the model, unused ones included.
            read: reads the start of a selected file.
            trusted: True if an administrator lets the model's own code run.

        Raises:
            ModelUnavailable: a file is damaged or incomplete, or the config states no usable facts.
            SourceUnavailable: the source did not answer.
        """
        pickles = pickles_without_config(sizes)
        if pickles:
            (name,) = pickles
            self.check_files(reference, sizes, read)
            start = _read_start(name, min(sizes[name], MAX_PICKLE_BYTES), read)
            return read_pickle_facts(reference, name, start, sizes[name], names)
        # The config first and alone: without it nothing else about the model can be used.
        if sizes[CONFIG] > MAX_CONFIG_BYTES:
            raise config_too_large(reference)
        config = read(CONFIG, MAX_CONFIG_BYTES)
        damage = find_damage(CONFIG, config)
        if damage is not None:
            raise damaged(reference, {CONFIG: replace(damage, code="model_config_invalid")})
        weight_sizes = [size for name, size in sizes.items() if is_weights(name)]
        quantization = {}
        for name in QUANTIZATION:
            content = read(name, MAX_CONFIG_BYTES) if name in sizes else b""
            # A damaged one is reported with the other files below.
            if content and find_damage(name, content) is None:
                quantization[name] = content
        facts = read_facts(reference, config, weight_sizes, names, trusted=trusted, quantization=quantization)

        # The program that makes the engine of the images loads it, an hour later.
        if facts.architecture in NEEDS_PROCESSOR and PREPROCESSOR not in names:
            raise refusal(
                reference,
                "model_processor_missing",
                f"there is no {PREPROCESSOR}, which says how images are prepared",
                expected=f"a {PREPROCESSOR} beside config.json",
                remedy="download it from where the model comes from, or save it with AutoProcessor.save_pretrained",
            )

        # The index was read when the files were selected.
        others = {name: size for name, size in sizes.items() if name not in (CONFIG, *INDEXES)}
        tensors = self.check_files(reference, others, read)
        headers = [name for name in others if name.endswith(".safetensors")]
        if headers and all(name in tensors for name in headers):
            _check_tensors(reference, tensors)
            dtypes = {dtype for file_tensors in tensors.values() for dtype in file_tensors.values()}
            facts = facts.model_copy(update={"weight_dtypes": tuple(sorted(dtypes))})
            if WEIGHTS_INDEX in sizes:
                weight_map = read_index(reference, WEIGHTS_INDEX, read)
                _check_index(reference, weight_map, frozenset().union(*tensors.values()))
        return facts

    def check_files(self, reference: object, sizes: Mapping[str, int], read: ReadStart) -> dict[str, Mapping[str, str]]:
        """Check the first bytes of a model's files; return the dtype of each tensor of each safetensors file.

        Raises:
            ModelUnavailable: a file is damaged or incomplete.
            SourceUnavailable: the source did not answer.
        """
        starts = self._check_all(reference, self._check_file, sizes, read)
        return {name: start.tensors for name, start in starts.items() if start.tensors is not None}

    def read_auxiliary(
        self, reference: object, sizes: Mapping[str, int], read: ReadStart, repository: Repository
    ) -> None:
        """Check the files of a second model as those of a model, and refuse Git LFS pointers among data files.

        Raises:
            ModelUnavailable: a file is damaged or incomplete.
            SourceUnavailable: the source did not answer.
        """
        if repository == "model":
            self.check_files(reference, sizes, read)
            return
        # Data may begin with anything else.
        # A pointer is small, so a large file need not be read.
        small = {name: size for name, size in sizes.items() if 0 < size <= START_BYTES}

        def check_pointer(name: str, size: int, read: ReadStart) -> _Start:
            return _Start(LFS_POINTER) if is_lfs_pointer(_read_start(name, size, read)) else _Start()

        self._check_all(reference, check_pointer, small, read)

    def _check_all(
        self, reference: object, check: _Check, sizes: Mapping[str, int], read: ReadStart
    ) -> dict[str, _Start]:
        # Each with a copy of this thread's context: its reads end with the limit of the submit.
        running = {self._pool.submit(copy_context().run, check, name, size, read): name for name, size in sizes.items()}
        # Before that limit: what is late is left to the conversion, and does not fail the submit.
        seconds = min(self._seconds, max(0.0, time_limit.seconds_left() - 1))
        done, late = wait(running, seconds, return_when=FIRST_EXCEPTION)
        for future in late:
            future.cancel()
        starts = {running[future]: future.result() for future in done}
        damages = {name: start.damage for name, start in starts.items() if start.damage is not None}
        if damages:
            raise damaged(reference, damages)
        if late:
            logger.warning(
                "%s: %d of %d files were not checked at submit, because their first bytes did not arrive within "
                "%.0f s; the conversion checks them", reference, len(late), len(sizes), seconds,
            )  # fmt: skip
        return starts

    def _check_file(self, name: str, size: int, read: ReadStart) -> _Start:
        is_safetensors = name.endswith(".safetensors")
        # Settings of a tokenizer are short enough to be read to their end.
        is_long = is_safetensors or name.endswith(".json")
        length = min(size, _FIRST_READ_BYTES if is_long else START_BYTES)
        start = _read_start(name, length, read)
        damage = find_damage(name, start) or find_json_damage(name, start, is_whole=length == size)
        if damage is not None or not is_safetensors:
            return _Start(damage)
        try:
            end = header_end(size, start)
            if end > _MAX_PARSED_HEADER_BYTES:
                return _Start()
            if end > length:
                start = _read_start(name, end, read)
            # One at a time: the parsed headers of several large files fill too much memory.
            with self._parsing:
                return _Start(tensors=tensor_dtypes(size, start))
        except BadHeader as error:
            return _Start(_bad_weights(str(error)))


def _read_start(name: str, length: int, read: ReadStart) -> bytes:
    """Return the first `length` bytes of a file that is not shorter.

    A Git LFS pointer or a page is returned, too: a mirror may serve it in place of the longer file that it lists.

    Raises:
        SourceUnavailable: fewer came, so the file changes now, or the listing is wrong. Nothing is said about the file.
    """
    if length == 0:
        return b""
    start = read(name, length)
    is_other_file = start and find_damage(name, start) is not None
    if len(start) < length and not is_other_file:
        raise SourceUnavailable(f"{name} is shorter now than in the listing of its model; try again later")
    return start


def _bad_weights(defect: str) -> Damage:
    return Damage(
        "model_weights_damaged",
        defect,
        expected="a complete safetensors file",
        remedy="download or copy the file again, or save the model again with save_pretrained",
    )


def _check_tensors(reference: object, tensors: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse weights without tensors, weights of an adapter, and two copies of the weights.

    Raises:
        ModelUnavailable: the tensors are not those of one model.
    """
    files: dict[str, str] = {}
    for name in sorted(tensors):
        for tensor in tensors[name]:
            other = files.setdefault(tensor, name)
            if other != name:
                defect = f"has the tensor {tensor[:80]!r}, which {other} has too: there are two copies of the weights"
                raise damaged(reference, {name: _bad_weights(defect)})
    first = min(tensors)
    if not files:
        raise damaged(reference, {first: _bad_weights("has no tensors")})
    if all(".lora_" in tensor for tensor in files):
        raise only_adapter(reference, first, None)


def _check_index(reference: object, weight_map: Mapping[str, str], tensors: Set[str]) -> None:
    """Refuse an index that names a tensor which no file has.

    Raises:
        ModelUnavailable: with the first such tensor.
    """
    for tensor in sorted(weight_map.keys() - tensors):
        if not tensor.endswith(_OPTIONAL_TENSORS):
            raise refusal(
                reference,
                "model_weights_incomplete",
                f"the weights are incomplete: {WEIGHTS_INDEX} names the tensor {tensor[:80]!r} in "
                f"{weight_map[tensor]}, and that file does not have it",
                expected="an index of these very files",
                remedy="download the index and the files from the same revision, or save the model again with "
                "save_pretrained",
            )
