"""The identities of a worker's slots: one for the process, or one for each GPU that it sees."""

from __future__ import annotations

import secrets
from dataclasses import replace

from workers.presence import Identity

_LABEL = len("GPU-00000000")  # enough of a UUID to tell the GPUs of one machine apart


def identities_per_gpu(identity: Identity) -> list[Identity]:
    """A worker of its own, in the catalogue, for each GPU or MIG device of the process's worker.

    Its name has the beginning of the GPU's UUID: a quarantine by name stays with the card, whatever its number is after
    a restart.

    Raises:
        ValueError: the worker sees no GPU.
    """
    host = identity.fingerprint.host
    if not host.gpu_uuids:
        raise ValueError(
            "ENGINEFARM_SLOTS=per-gpu: this worker sees no GPU: set ENGINEFARM_SLOTS=one, or look at nvidia-smi -L, "
            "CUDA_VISIBLE_DEVICES and ENGINEFARM_USE_GPU"
        )
    labels = [uuid[:_LABEL] for uuid in host.gpu_uuids]
    if len(set(labels)) < len(labels):
        labels = list(host.gpu_uuids)
    identities = []
    for label, uuid in zip(labels, host.gpu_uuids, strict=True):
        own_host = host.model_copy(update={"gpus": 1, "gpu_uuids": (uuid,)})
        fingerprint = identity.fingerprint.model_copy(update={"host": own_host})
        identities.append(
            replace(identity, id=secrets.token_hex(8), name=f"{identity.name}.{label}", fingerprint=fingerprint)
        )
    return identities


def only_gpu_of(identity: Identity) -> dict[str, str]:
    """The variables that show a program the GPU of one slot only."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(identity.fingerprint.host.gpu_uuids)}
