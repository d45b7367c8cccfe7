"""Keys: SHA-256 over canonical JSON (RFC 8785) that *names* every field that matters.

There are two documents, each with its version in it. The convert document has no shape and no GPU, so one checkpoint
serves all shapes and all GPUs. The exception is a checkpoint whose weights are laid out for one compute capability: its
document is of version 2 and names that SM (docs/adr/0021-checkpoints-for-one-sm.md). The build document contains the
convert key, so whatever changes the checkpoint changes the engine's key too.

A document lists what is in, never what is left out: a field added to the spec later changes no key until somebody
names it here. Then raise the document's version (`CONVERT`, `BUILD`), or write the field only where a request sets it,
as `calibration`, so that older keys stay. Frozen vectors: `tests/enginefarm/contract/golden_keys.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import rfc8785
from pydantic import JsonValue, StringConstraints

from enginefarm.contract.spec import Limits, Parallelism, Precision

Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Document = dict[str, Any]

CONVERT = "enginefarm.convert/1"
CONVERT_FOR_SM = "enginefarm.convert/2"  # version 1 and `platform`, for a checkpoint that is laid out for one SM
CONVERT_VERSIONS = (CONVERT, CONVERT_FOR_SM)
BUILD = "enginefarm.build/1"


def convert_document(
    *,
    toolchain: str,
    version: str,
    model: Mapping[str, str],
    precision: Precision,
    parallelism: Parallelism,
    options: Mapping[str, JsonValue],
    calibration: Mapping[str, str] | None = None,
    sm: str | None = None,
) -> Document:
    """Return everything that a checkpoint depends on.

    `model` and `calibration` are identities: a commit or digests, no path and no moving tag. `sm` is the compute
    capability that the weights are laid out for, as `Platform.sm`; None if every GPU reads them.
    """
    document: Document = {
        # The version is inside the hash: a document of another version can never have the same key.
        "document": CONVERT,
        "toolchain": {"name": toolchain, "version": version},
        "model": dict(model),
        "precision": {
            "dtype": precision.dtype,
            "quantization": precision.quantization,
            "kv_cache": precision.kv_cache,
        },
        "parallelism": {"tp": parallelism.tp, "pp": parallelism.pp, "cp": parallelism.cp},
        "options": dict(options),
    }
    # Without calibration data the field is absent, not null: documents made before the field existed keep their keys.
    if calibration:
        document["calibration"] = dict(calibration)
    if sm is not None:
        # Another version, not just another field: a checkpoint of version 1 may have the layout of any SM.
        document["document"] = CONVERT_FOR_SM
        document["platform"] = {"sm": sm}
    return document


def build_document(
    *,
    convert: Key,
    toolchain: str,
    version: str,
    limits: Limits,
    options: Mapping[str, JsonValue],
    platform: Mapping[str, JsonValue],
) -> Document:
    """Return everything that an engine depends on. `platform` is what the engine is bound to: see `Platform.bound`."""
    return {
        "document": BUILD,
        # Stands for the model, the precision, the parallelism and the options of convert.
        "convert": convert,
        "toolchain": {"name": toolchain, "version": version},
        "limits": {
            "max_batch_size": limits.max_batch_size,
            "max_input_len": limits.max_input_len,
            # max_output_len follows from the other two lengths, so that it does not matter which one was written.
            "max_seq_len": limits.seq_len,
            "max_beam_width": limits.max_beam_width,
            "max_num_tokens": limits.max_num_tokens,
            "opt_num_tokens": limits.opt_num_tokens,
        },
        "options": dict(options),
        "platform": dict(platform),
    }


def key_of(document: Document) -> Key:
    """Return the key of a document: 64 hex digits.

    Raises:
        rfc8785.CanonicalizationError: the document has a value that JSON cannot state exactly.
    """
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()
