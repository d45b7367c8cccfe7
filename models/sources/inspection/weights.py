"""Choose the files of a model's weights. The index says which files count; names count only where there is no index.

Loaders of safetensors open `model.safetensors`, or else the files that `model.safetensors.index.json` maps tensors to,
whatever their names are. Pickles have the same two forms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from enginefarm.contract.bounded import parse_json
from enginefarm.contract.errors import ModelUnavailable
from models.sources.inspection.config_facts import parse_json_object
from models.sources.inspection.damage import damaged, find_damage
from models.sources.inspection.file_names import (
    ADAPTER_CONFIG,
    SAFE_NAME,
    SINGLE_WEIGHTS,
    WEIGHTS_INDEX,
    has_pickle,
    is_adapter,
    is_safetensors_weights,
    other_format,
)
from models.sources.rejection import refusal

# The largest indexes, of models with 384 experts a layer, have 20 MB.
MAX_INDEX_BYTES = 64 << 20
_MAX_ADAPTER_CONFIG_BYTES = 1 << 20
_SHOWN_NAMES = 3
# model-00001-of-00002.safetensors, model.safetensors-00001-of-00002.safetensors, pytorch_model-00001-of-00002.bin
_SHARD = re.compile(r"(?P<stem>.+-)(?P<number>\d+)(?P<of>-of-)(?P<total>\d{1,6})(?P<suffix>\.[a-z]+)")


class ReadStart(Protocol):
    """Reads the first bytes of a file of a listed model: `length` of them, or all of a shorter file."""

    def __call__(self, name: str, length: int) -> bytes: ...


@dataclass(frozen=True)
class _Form:
    """How one format of weights is stored."""

    single: str
    index: str
    suffix: str
    shard_prefix: str  # of shards that count without an index

    def has_shard(self, name: str) -> bool:
        return name.startswith(self.shard_prefix) and name.endswith(self.suffix) and not is_adapter(name)


_SAFETENSORS = _Form(SINGLE_WEIGHTS, WEIGHTS_INDEX, ".safetensors", shard_prefix="")
_PICKLES = _Form("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin", shard_prefix="pytorch_model")
INDEXES = (_SAFETENSORS.index, _PICKLES.index)


def choose_weights(reference: object, names: Set[str], read: ReadStart, *, trusted: bool) -> frozenset[str]:
    """Return one copy of the weights among `names`, with its index.

    Args:
        reference: the model, for error texts.
        names: the files at the model's top.
        read: reads the index, if there is one.
        trusted: use pickles if there are no safetensors, under the names that transformers gives them: a `.bin` of
            another name may be anything.

    Raises:
        ModelUnavailable: there are no weights that may be loaded, a shard is missing, or the index is unusable.
    """
    safetensors = frozenset(filter(is_safetensors_weights, names))
    if safetensors or WEIGHTS_INDEX in names:
        return _choose(reference, _SAFETENSORS, names, read) or safetensors
    if trusted:
        pickles = _choose(reference, _PICKLES, names, read)
        if pickles:
            return pickles
    raise _no_weights(reference, names, read)


def read_index(reference: object, index: str, read: ReadStart) -> Mapping[str, str]:
    """Read an index of weights; return the file of each tensor.

    Raises:
        ModelUnavailable: it is no index, or names a file outside the model's top folder.
    """
    content = read(index, MAX_INDEX_BYTES + 1)
    if len(content) > MAX_INDEX_BYTES:
        raise _bad_index(reference, index, f"has more than {MAX_INDEX_BYTES >> 20} MiB")
    damage = find_damage(index, content)
    if damage is not None:
        raise damaged(reference, {index: damage})
    # Not by `parse_json_object`, which looks at each of 100,000 texts: nothing of an index is stored.
    try:
        document = parse_json(content)
    except json.JSONDecodeError as error:
        raise _bad_index(reference, index, f"is not JSON ({error.msg})") from error
    if not isinstance(document, dict):
        raise _bad_index(reference, index, f"is not a JSON object but a {type(document).__name__}")
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_index(reference, index, "has no weight_map, which says in which file each tensor is")
    suffix = _PICKLES.suffix if index == _PICKLES.index else _SAFETENSORS.suffix
    files = {name if isinstance(name, str) else json.dumps(name) for name in weight_map.values()}
    for name in sorted(files):
        # The index comes with the model and is not trusted: a path could name any file of a worker.
        if not SAFE_NAME.fullmatch(name):
            raise _bad_index(reference, index, f"names {name[:80]!r}, which is no plain name of a file beside it")
        if not name.endswith(suffix):
            raise _bad_index(reference, index, f"names {name[:80]!r}, which is not a {suffix} file")
    return weight_map


def _choose(reference: object, form: _Form, names: Set[str], read: ReadStart) -> frozenset[str]:
    """Return the files of the weights in this form; nothing if none has a name that loaders know.

    Raises:
        ModelUnavailable: a shard is missing, or the index is missing or unusable.
    """
    if form.index in names:
        try:
            weight_map = read_index(reference, form.index, read)
        except ModelUnavailable:
            if form.single not in names:
                raise
            weight_map = {}  # an index that was left behind: loaders open the single file
        shards = frozenset(weight_map.values())
        # Loaders open the single file first. If it is one shard of several, the index counts.
        if form.single not in names or (form.single in shards and shards <= names and len(shards) > 1):
            missing = sorted(shards - names)
            if missing:
                raise _incomplete(reference, missing, f"the index {form.index} names")
            return shards | {form.index}
    if form.single in names:
        return frozenset({form.single})
    # Without an index, names tell which shards there should be.
    shards = frozenset(name for name in filter(_SHARD.fullmatch, names) if form.has_shard(name))
    missing = _missing_shards(shards)
    if missing or (shards and form is _SAFETENSORS):
        raise _incomplete(reference, [*missing, form.index], "the names of the other files announce")
    other_indexes = sorted(name for name in names if f"{form.suffix}.index" in name and name.endswith(".json"))
    if other_indexes and not shards:
        raise refusal(
            reference,
            "model_weights_incomplete",
            f"the weights are incomplete: {form.index} is missing, and loaders do not open {other_indexes[0]}",
            expected=f"{form.single}, or shards with {form.index}",
            remedy=f"rename {other_indexes[0]} to {form.index} if its shards are the weights to build from",
        )
    return shards


def _missing_shards(shards: Collection[str]) -> list[str]:
    """Return the shards that the names of the others announce, as far as `shards` lacks them."""
    numbers: dict[tuple[str, str], set[int]] = {}
    widths: dict[tuple[str, str], int] = {}
    for name in shards:
        shard = _SHARD.fullmatch(name)
        assert shard is not None, f"{name} is a shard"
        family = (shard["stem"], shard["of"] + shard["total"] + shard["suffix"])
        numbers.setdefault(family, set()).add(int(shard["number"]))
        widths[family] = len(shard["number"])
    missing: list[str] = []
    for (stem, end), present in numbers.items():
        total = int(end.split("-of-")[1].partition(".")[0])
        first = 0 if 0 in present else 1
        for number in range(first, first + total):
            if number not in present:
                missing.append(f"{stem}{number:0{widths[stem, end]}}{end}")
            # A name can announce a million shards. Only some are shown.
            if len(missing) > _SHOWN_NAMES:
                break
    return sorted(missing)


def _incomplete(reference: object, missing: list[str], announced_by: str) -> ModelUnavailable:
    listed = ", ".join(missing[:_SHOWN_NAMES])
    if len(missing) > _SHOWN_NAMES:
        listed += f" and {len(missing) - _SHOWN_NAMES} more"
    verb = "is" if len(missing) == 1 else "are"
    return refusal(
        reference,
        "model_weights_incomplete",
        f"the weights are incomplete: {listed} {verb} missing, which {announced_by}",
        expected="every shard of the weights, and their index",
        remedy="finish the upload or the download of the model, then submit again",
    )


def _bad_index(reference: object, index: str, defect: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_index_invalid",
        f"{index} {defect}",
        expected='an index as save_pretrained writes it: {"weight_map": {"TENSOR": "FILE"}}, with files beside it',
        remedy="download the index again, or save the model again with save_pretrained",
    )


def _no_weights(reference: object, names: Set[str], read: ReadStart) -> ModelUnavailable:
    """Return the refusal of a model without weights that may be loaded: by what it has in their place."""
    pickles = sorted(name for name in names if has_pickle([name]) and not is_adapter(name))
    if pickles:
        return refusal(
            reference,
            "model_only_pickle",
            f"has only pickle weights ({pickles[0]}), and loading a pickle runs whatever code it carries",
            expected="safetensors weights",
            remedy="convert to safetensors with save_pretrained(…, safe_serialization=True) on a machine that "
            "trusts the file, name a revision that has safetensors, or ask an administrator to trust this model",
        )
    adapters = sorted(filter(is_adapter, names))
    if adapters:
        base = None
        if ADAPTER_CONFIG in names:
            base = base_model(read(ADAPTER_CONFIG, _MAX_ADAPTER_CONFIG_BYTES))
        return only_adapter(reference, adapters[0], base)
    detail = "there are no safetensors weights"
    remedy = "name a model with safetensors weights"
    for name in sorted(names):
        weights_format = other_format(name)
        if weights_format is not None:
            detail = f"has only {weights_format} weights ({name}), which this farm does not read"
            remedy = "name the model that these weights were made from, in safetensors form"
            break
    return refusal(
        reference,
        "model_weights_missing",
        detail,
        expected=f"{SINGLE_WEIGHTS}, or shards of it with {WEIGHTS_INDEX}",
        remedy=remedy,
    )


def only_adapter(reference: object, found: str, base_model: str | None) -> ModelUnavailable:
    """Return the refusal of an adapter in place of a model.

    Args:
        found: the file that shows it.
        base_model: the model that the adapter changes; None if the adapter does not say.
    """
    remedy = (
        "merge the adapter into its base model (PeftModel.merge_and_unload, then save_pretrained), or name that model"
    )
    if base_model:
        remedy += f": {base_model}"
    return refusal(
        reference,
        "model_only_adapter",
        f"has only a LoRA adapter ({found}), which changes the weights of another model and is no model itself",
        expected="a model with all of its weights",
        remedy=remedy,
    )


def base_model(adapter_config: bytes) -> str | None:
    """Return the name of the model that an adapter was trained for; None if its config does not say."""
    try:
        name = parse_json_object(adapter_config).get("base_model_name_or_path")
    except ValueError:
        return None
    if not isinstance(name, str) or not name.isprintable():
        return None
    return name[:200]
