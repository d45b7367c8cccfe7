"""Each GPU of a worker with a slot for each is a worker of its own, with a name that stays with the card."""

from __future__ import annotations

import pytest

from enginefarm.contract.host import Fingerprint
from tests.models.requests import CPU, HOST
from workers.presence import Identity
from workers.slot_identities import identities_per_gpu, only_gpu_of

CARDS = ("GPU-5c3f9e1a-1111-2222-3333-444455556666", "GPU-77aa00bb-1111-2222-3333-444455556666")


def identity_with(*gpus: str) -> Identity:
    host = HOST.model_copy(update={"gpus": len(gpus), "gpu_uuids": gpus})
    return Identity("0" * 16, "host", Fingerprint(platform=CPU, host=host), [], ["build.q"])


def test_each_gpu_is_a_worker_of_its_own_whose_programs_see_no_other() -> None:
    first, second = identities_per_gpu(identity_with(*CARDS))
    assert (first.name, second.name) == ("host.GPU-5c3f9e1a", "host.GPU-77aa00bb")
    assert first.id != second.id
    assert [slot.fingerprint.host.gpu_uuids for slot in (first, second)] == [(card,) for card in CARDS]
    assert first.fingerprint.host.gpus == 1
    assert only_gpu_of(second) == {"CUDA_VISIBLE_DEVICES": CARDS[1]}


def test_gpus_whose_uuids_begin_alike_keep_different_names() -> None:
    names = {slot.name for slot in identities_per_gpu(identity_with("GPU-5c3f9e1a-1", "GPU-5c3f9e1a-2"))}
    assert names == {"host.GPU-5c3f9e1a-1", "host.GPU-5c3f9e1a-2"}


def test_a_worker_without_a_gpu_has_no_slots_per_gpu() -> None:
    with pytest.raises(ValueError, match=r"ENGINEFARM_SLOTS=per-gpu: this worker sees no GPU"):
        identities_per_gpu(identity_with())
