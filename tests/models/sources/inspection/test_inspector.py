"""What submit finds in a model's files, in folders, hubs and buckets alike; rows D1 to D8 of the field's reports."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from minio import Minio
from safetensors.numpy import save

from enginefarm.contract.errors import ModelUnavailable, SourceUnavailable
from enginefarm.contract.model.reference import BucketReference, FileReference, HubReference, parse
from models.sources import (
    AuxiliarySource,
    BucketSource,
    FileSource,
    HubAuxiliarySource,
    HubSource,
    MemoryDigestCache,
    ResolvedModel,
)
from models.sources.inspection.inspector import Inspector
from models.sources.inspection.selection import PLAIN_DATA, NamedFiles
from tests.doubles.weights import index, weights
from tests.models.sources.models import tiny, write
from tests.models.sources.test_bucket_source import client_of, put
from tests.servers.hub import Hub
from tests.servers.s3 import S3Server

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4952222208\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
CONFIG = tiny()["config.json"]
HEADS = NamedFiles(("config.json", "medusa_lm_head.safetensors"))

Resolve = Callable[[Mapping[str, bytes]], ResolvedModel]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    name = f"inspected-{secrets.token_hex(4)}"
    client_of(s3_server).make_bucket(name)
    return name


@pytest.fixture(params=["folder", "hub", "bucket"])
def resolve(request: pytest.FixtureRequest, tmp_path: Path, hub: Hub) -> Resolve:
    """Put files into a source and resolve them as a model."""
    if request.param == "bucket":
        client: Minio = client_of(request.getfixturevalue("s3_server"))
        name = request.getfixturevalue("bucket")

        def in_bucket(files: Mapping[str, bytes]) -> ResolvedModel:
            reference = put(client, name, files, prefix=secrets.token_hex(4))
            assert isinstance(reference, BucketReference)
            return BucketSource(client).resolve_model(reference)

        return in_bucket

    def in_hub(files: Mapping[str, bytes]) -> ResolvedModel:
        hub.push("org/tiny", files)
        return HubSource(hub.url).resolve_model(HubReference("org/tiny"))

    return in_hub if request.param == "hub" else partial(resolve_folder, tmp_path)


def resolve_folder(root: Path, files: Mapping[str, bytes]) -> ResolvedModel:
    folder = write(root / secrets.token_hex(4), files)
    return FileSource([root], MemoryDigestCache()).resolve_model(FileReference(str(folder)))


def without_weights() -> dict[str, bytes]:
    files = tiny()
    del files["model.safetensors"]
    del files["pytorch_model.bin"]
    return files


def test_a_description_beside_the_config_makes_a_model_a_quantized_one(resolve: Resolve) -> None:
    description = b'{"quantization": {"quant_algo": "NVFP4", "group_size": 16}}'
    facts = resolve(tiny() | {"hf_quant_config.json": description}).facts
    assert facts.quantization_config == {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    with pytest.raises(ModelUnavailable, match="Git LFS pointer"):
        resolve(tiny() | {"hf_quant_config.json": POINTER})


def sharded(*names: str) -> dict[str, bytes]:
    """A model whose index names these shards, and an older shard that it does not name."""
    tensors = {f"model.layers.{number}.weight": name for number, name in enumerate(names)}
    shards = {name: weights(tensor=tensor) for tensor, name in tensors.items()}
    left_behind = {"model-00009-of-00009.safetensors": weights()}
    return {**without_weights(), **left_behind, **shards, INDEX: index(tensors)}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"), id="D1"),
        pytest.param(("model.safetensors-00001-of-00002.safetensors", "outside.safetensors"), id="D2"),
        pytest.param(("model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"), id="D3"),
    ],
)
def test_the_shards_that_the_index_names_are_the_weights(resolve: Resolve, names: tuple[str, ...]) -> None:
    model = resolve(sharded(*names))
    selected = {file.path for file in model.files if "safetensors" in file.path}
    assert selected == {*names, INDEX}
    assert model.facts.weight_bytes == sum(file.size for file in model.files if file.path in names)


def problem_of(resolve: Resolve, files: Mapping[str, bytes]) -> tuple[str, str, str]:
    """Code, detail and remedy of the one problem."""
    with pytest.raises(ModelUnavailable) as caught:
        resolve(files)
    [problem] = caught.value.problems
    assert problem.pointer == "/model"
    assert problem.expected
    assert problem.remedy
    return problem.code, problem.detail, problem.remedy


def truncated(file: bytes) -> bytes:
    return file[:-10]


def long_header(size: int) -> bytes:
    """A complete file whose header is longer than one read."""
    return save({f"{number:0200}": np.zeros(0, np.uint8) for number in range(size // 200)})


@pytest.mark.parametrize(
    ("changes", "code", "texts"),
    [
        pytest.param(
            {INDEX: index({"a": "x.safetensors", "b": "y.safetensors"}), "x.safetensors": weights(tensor="a")},
            "model_weights_incomplete", ["y.safetensors is missing", INDEX], id="D4",
        ),
        pytest.param(
            {"model.safetensors": POINTER}, "model_file_lfs_pointer", ["model.safetensors", "git lfs pull"], id="D5",
        ),
        pytest.param({"config.json": b"\xef\xbb\xbf" + CONFIG}, "model_config_invalid", ["byte order mark"], id="D6"),
        pytest.param({"config.json": CONFIG.decode().encode("utf-16")}, "model_config_invalid", ["UTF-16"], id="D6-16"),
        pytest.param(
            {"config.json": CONFIG.decode().encode("utf-32-le")}, "model_config_invalid", ["UTF-32"], id="D6-32",
        ),
        pytest.param({"config.json": CONFIG + b"}"}, "model_config_invalid", ["Extra data"], id="trailing garbage"),
        pytest.param(
            {"config.json": POINTER}, "model_config_invalid", ["config.json is a Git LFS"], id="config pointer",
        ),
        pytest.param(
            {"adapter_model.safetensors": weights(), "adapter_config.json": b'{"base_model_name_or_path": "org/base"}'},
            "model_only_adapter", ["adapter_model.safetensors", "org/base"], id="D8",
        ),
        pytest.param(
            {"model.safetensors": weights(tensor="base_model.model.q_proj.lora_A.weight")}, "model_only_adapter",
            ["model.safetensors"], id="renamed adapter",
        ),
        pytest.param(
            {"tokenizer.json": POINTER}, "model_file_lfs_pointer", ["tokenizer.json"],
            id="tokenizer pointer",
        ),
        pytest.param({"tokenizer.model": HTML}, "model_file_page", ["tokenizer.model is an HTML"], id="HTML"),
        pytest.param({"model.safetensors": XML}, "model_file_page", ["model.safetensors"], id="XML"),
        pytest.param({"model.safetensors": b""}, "model_file_empty", ["model.safetensors is empty"], id="no bytes"),
        pytest.param(
            {"tokenizer_config.json": b'{"chat_template": "{% for'}, "model_file_no_json",
            ["tokenizer_config.json is not JSON: Unterminated string"], id="cut JSON",
        ),
        pytest.param(
            {"tokenizer.json": b"Entry not found"}, "model_file_no_json",
            ["tokenizer.json", "Entry not found"], id="text for JSON",
        ),
        pytest.param(
            {"model.safetensors": truncated(weights(bytes(100)))}, "model_weights_damaged", ["describes"],
            id="truncated",
        ),
        pytest.param(
            {"model.safetensors": long_header(200_000) + b"x"}, "model_weights_damaged",
            ["model.safetensors is longer"], id="long header",
        ),
        pytest.param(
            {"model.safetensors": weights()[:20]}, "model_weights_damaged", ["is truncated: its header"],
            id="no header",
        ),
        pytest.param({"model.safetensors": save({})}, "model_weights_damaged", ["has no tensors"], id="no tensors"),
        pytest.param(
            {"a.safetensors": weights(), "b.safetensors": weights()}, "model_weights_damaged", ["two copies"],
            id="two copies",
        ),
        pytest.param(
            {INDEX: index({"a": "x.safetensors", "b": "x.safetensors"}), "x.safetensors": weights(tensor="a")},
            "model_weights_incomplete", ["the tensor 'b'", "x.safetensors", INDEX], id="index of other shards",
        ),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_converted_is_refused_at_submit(
    tmp_path: Path, changes: Mapping[str, bytes], code: str, texts: list[str]
) -> None:
    files = {**without_weights(), **changes}
    if not any("safetensors" in name for name in changes):
        files["model.safetensors"] = weights()
    actual_code, detail, remedy = problem_of(partial(resolve_folder, tmp_path), files)
    assert actual_code == code
    for text in texts:
        assert text in f"{detail}; {remedy}"


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("model.safetensors", truncated(weights(bytes(100))), "model.safetensors is truncated: its header describes"),
        ("tokenizer.json", POINTER, "tokenizer.json is a Git LFS pointer, which names a large file"),
        ("config.json", b"\xef\xbb\xbf" + CONFIG, "config.json is encoded as UTF-8 with a byte order mark"),
        ("tokenizer_config.json", b"", "tokenizer_config.json is empty"),
    ],
)
def test_every_source_gives_the_same_words(resolve: Resolve, name: str, content: bytes, detail: str) -> None:
    assert problem_of(resolve, {**tiny(), name: content})[1].startswith(detail)


def test_pointers_in_place_of_all_shards_are_one_problem(tmp_path: Path) -> None:
    names = [f"model-{number:05}-of-00070.safetensors" for number in range(1, 71)]
    files = {**without_weights(), **dict.fromkeys(names, POINTER), INDEX: index({name: name for name in names})}
    code, detail, _ = problem_of(partial(resolve_folder, tmp_path), files)
    assert code == "model_file_lfs_pointer"
    assert "model-00001-of-00070.safetensors is a Git LFS pointer" in detail
    assert "68 more files" in detail


@pytest.mark.parametrize("content", [b"", b"{", HTML, b"\xef\xbb\xbf{}", b"[1]"])
def test_a_generation_config_that_loaders_ignore_is_accepted(tmp_path: Path, content: bytes) -> None:
    assert resolve_folder(tmp_path, {**tiny(), "generation_config.json": content})


def test_odd_models_that_can_be_converted_are_accepted(resolve: Resolve) -> None:
    files = {
        **without_weights(),
        # Loaders ignore a generation_config.json that they cannot read, and a tied tensor is in no file.
        "generation_config.json": b"not json",
        "merges.txt": b"",
        INDEX: index({"a": "x.safetensors", "lm_head.weight": "x.safetensors"}),
        "x.safetensors": weights(tensor="a"),
        "adapter_model.safetensors": POINTER,
    }
    assert resolve(files).facts.weight_dtypes == ("U8",)
    assert not resolve(files).facts.lacks_tokenizer_json


@pytest.mark.parametrize("vocabulary", ["tokenizer.model", "vocab.json", "qwen.tiktoken"])
def test_a_vocabulary_without_tokenizer_json_is_a_fact_of_the_model(tmp_path: Path, vocabulary: str) -> None:
    files = {**tiny(), vocabulary: b"{}"}
    del files["tokenizer.json"]
    assert resolve_folder(tmp_path, files).facts.lacks_tokenizer_json


def test_duplicate_keys_of_a_config_mean_the_last_one_as_in_every_loader(tmp_path: Path) -> None:
    files = tiny()
    files["config.json"] = CONFIG.replace(b"{", b'{"hidden_size": 7, ', 1)
    assert resolve_folder(tmp_path, files).facts.hidden_size == json.loads(files["config.json"])["hidden_size"] == 64


def test_seventy_shards_of_a_hub_are_read_at_once(hub: Hub) -> None:
    hub.push("org/tiny", sharded(*(f"model-{number:05}-of-00070.safetensors" for number in range(1, 71))))
    source = HubSource(hub.url)
    started = time.monotonic()
    source.resolve_model(HubReference("org/tiny"))
    assert time.monotonic() - started < 10
    requests = len(hub.requests)
    assert requests < 80
    source.resolve_model(HubReference("org/tiny"))
    assert len(hub.requests) == requests


def test_an_unchanged_bucket_is_listed_again_and_not_read(s3_server: S3Server, bucket: str) -> None:
    now = 0.0
    client = client_of(s3_server)
    source = BucketSource(client, clock=lambda: now)
    reference = put(client, bucket, tiny(), prefix="listed")
    first = source.resolve_model(reference)
    now = 11.0
    client.get_object = None  # type: ignore[method-assign, assignment]
    assert source.resolve_model(reference) == first


def test_a_server_that_ignores_ranges_is_read_only_as_far_as_needed(
    s3_server: S3Server, bucket: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**without_weights(), "model.safetensors": weights(bytes(1 << 20))}
    monkeypatch.setattr("tests.servers.hub._part", lambda answer, _: answer)
    hub.push("org/tiny", files)
    assert HubSource(hub.url).resolve_model(HubReference("org/tiny")).facts.weight_dtypes == ("U8",)
    client = client_of(s3_server)
    whole = client.get_object
    monkeypatch.setattr(client, "get_object", lambda bucket, key, **_: whole(bucket, key))
    reference = put(client, bucket, files, prefix="whole")
    assert BucketSource(client).resolve_model(reference).facts.weight_dtypes == ("U8",)


def test_a_mirror_that_serves_pointers_in_place_of_listed_files_is_found_out(hub: Hub) -> None:
    hub.push("org/tiny", tiny())
    hub.damaged["model.safetensors"] = POINTER
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is a Git LFS pointer"):
        HubSource(hub.url).resolve_model(HubReference("org/tiny"))


def test_an_unused_index_that_leads_nowhere_does_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tiny())
    for target in ("nowhere", "/etc/hostname"):
        (folder / INDEX).symlink_to(target)
        model = FileSource([tmp_path], MemoryDigestCache()).resolve_model(FileReference(str(folder)))
        assert INDEX not in {file.path for file in model.files}
        (folder / INDEX).unlink()


def test_an_index_that_changes_changes_the_model(tmp_path: Path) -> None:
    source = FileSource([tmp_path], MemoryDigestCache())
    folder = write(tmp_path / "model", sharded("a.safetensors", "b.safetensors"))
    reference = FileReference(str(folder))
    source.resolve_model(reference)
    write(folder, {INDEX: index({"model.layers.0.weight": "a.safetensors"})})
    after = source.resolve_model(reference)
    assert [file.path for file in after.files if file.path.endswith(".safetensors")] == ["a.safetensors"]


def test_files_that_do_not_arrive_in_time_are_left_to_the_conversion(caplog: pytest.LogCaptureFixture) -> None:
    arrives = threading.Event()

    def read(name: str, length: int) -> bytes:
        arrives.wait(10)
        return weights()[:length]

    assert Inspector(seconds=0.05).check_files("hf:org/tiny", {"model.safetensors": len(weights())}, read) == {}
    arrives.set()
    assert "hf:org/tiny: 1 of 1 files were not checked at submit" in caplog.text


def test_a_source_that_sends_less_than_it_lists_is_not_the_callers_fault() -> None:
    with pytest.raises(SourceUnavailable, match="shorter now"):
        Inspector().check_files("hf:org/tiny", {"model.safetensors": 100}, lambda name, length: b"")


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_second_models_and_data_are_inspected_too(place: str, tmp_path: Path, hub: Hub) -> None:
    source = AuxiliarySource([tmp_path], MemoryDigestCache(), HubAuxiliarySource(hub.url))
    files = {
        "heads": {"config.json": b"{}", "medusa_lm_head.safetensors": POINTER},
        "cut": {"config.json": b"{}", "medusa_lm_head.safetensors": truncated(weights())},
        "datasets/org/news": {"a.parquet": POINTER},
        "datasets/org/pages": {"a.txt": HTML},
    }
    codes = {}
    for name, content in files.items():
        hub.push(name if "/" in name else f"org/{name}", content)
        folder = write(tmp_path / name, content)
        is_data = name.startswith("datasets/")
        reference = parse(f"file:{folder}" if place == "folder" else f"hf:org/{folder.name}")
        try:
            source.resolve_files(reference, PLAIN_DATA if is_data else HEADS)
        except ModelUnavailable as error:
            codes[name] = error.problems[0].code
    assert codes == {
        "heads": "model_file_lfs_pointer", "cut": "model_weights_damaged", "datasets/org/news": "model_file_lfs_pointer"
    }  # fmt: skip
