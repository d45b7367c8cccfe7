"""TensorRT-LLM's programs (as doubles) behind the real API, worker, queue and store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select, update

from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import InvalidSpec, NotFound, PlatformMismatch
from enginefarm.contract.host import Host
from enginefarm.contract.stage import Stage
from enginefarm.node.detection import detect
from enginefarm.node.fit import require_fit
from enginefarm.transfer import pull as fetch
from enginefarm.wire.bodies import Build
from enginefarm.wire.explanation import Explanation
from models.catalogue.rows import ActionRow, AttemptRow, GpuLockRow, WarmFileRow, WorkerRow
from tests.doubles.installation import make_installation, order
from tests.doubles.tiny_models.encoder_decoders import make_tiny_t5
from tests.doubles.tiny_models.llama import make_tiny_llama
from tests.doubles.tiny_models.whisper import make_openai_whisper
from tests.farm.conftest import fresh_broker, run_farm
from tests.farm.running_farm import CHECKOUT, RunningFarm, eventually
from tests.servers.hub import Hub
from tests.servers.redis import Valkey
from tests.toolchains.trtllm.context.test_adapters import make_adapter
from tests.toolchains.trtllm.releases.test_draft_heads import make_heads
from tests.workers.sandbox.real import sandbox

VERSION = "1.2.1"
IMAGE = f"nvcr.io/nvidia/tensorrt-llm/release:{VERSION}"
H100, A100 = "NVIDIA H100 80GB HBM3,80,9.0,GPU-8a2c", "NVIDIA A100-SXM4-80GB,80,8.0"


def gpu_worker(running_farm: RunningFarm, name: str, gpu: str) -> None:
    """A worker in a double of NVIDIA's release image, on a machine whose NVML double reports this GPU."""
    sm = gpu.split(",")[2].replace(".", "")
    installed = make_installation(running_farm.state / name, VERSION, sm)
    path = [str(CHECKOUT / "tests" / "doubles" / "nvml"), str(CHECKOUT)]
    running_farm.add_worker(
        name, installed | {"PYTHONPATH": os.pathsep.join(path), "NVML_DOUBLE": gpu, "ENGINEFARM_IMAGE": IMAGE}
    )


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="module")
def running_farm(valkey: Valkey, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    state = tmp_path_factory.mktemp("trtllm")
    settings = {
        "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "BROKER_URL": fresh_broker(valkey),
        "STORE_URL": f"file://{state / 'store'}", "HF_ENDPOINT": hub.url,
    }  # fmt: skip
    for made in run_farm(state, settings):
        made.add_api()
        gpu_worker(made, "h100", H100)
        make_tiny_llama(made.models / "tiny")
        yield made


@pytest.fixture(scope="module")
def client(running_farm: RunningFarm) -> Iterator[Farm]:
    with Farm(running_farm.urls[0]) as made:
        yield made


def spec(running_farm: RunningFarm, **limits: Any) -> dict[str, Any]:
    return {
        "model": f"file:{running_farm.models / 'tiny'}", "toolchain": {"name": "trtllm", "version": VERSION},
        "limits": {"max_batch_size": 4, "max_input_len": 64, "max_output_len": 32} | limits,
    }  # fmt: skip


def test_submit_convert_build_pull(running_farm: RunningFarm, client: Farm, tmp_path: Path) -> None:
    submitted = client.submit(spec(running_farm), require_worker=True)
    ended = client.wait(submitted.id, timeout=60)
    assert ended.state == "succeeded", ended.error
    assert ended.platform.gpu == "NVIDIA H100 80GB HBM3"
    engine = client.engine(submitted.key)
    built_on: Any = engine.provenance["host"]
    for host in (*(attempt.host for attempt in ended.attempts), Host.model_validate(built_on)):
        assert host is not None
        assert (host.image, host.versions["tensorrt_llm"]) == (IMAGE, VERSION)
    assert [attempt.platform and attempt.platform.sm for attempt in ended.attempts] == ["90", "90"]
    with pytest.raises(PlatformMismatch, match="gpu must be NVIDIA H100"):
        require_fit(engine, detect(prefer_gpu=False).platform)
    folder = fetch.pull(client, engine, tmp_path / "engine", any_platform=True)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "rank0.engine", "tokenizer.json"}


def test_a_triton_repository_is_pulled(running_farm: RunningFarm, client: Farm, tmp_path: Path) -> None:
    key = client.wait(client.submit(spec(running_farm)).id, timeout=60).key
    place, environment = tmp_path / "models", {"ENGINEFARM_URL": running_farm.urls[0]}
    command = ["pull", key, str(place), "--triton", "--any-platform"]
    first = CliRunner().invoke(main, command, env=environment)
    assert first.exit_code == 0, first.output
    engine = place / "tensorrt_llm" / "1"
    assert {path.name for path in engine.iterdir()} >= {"config.json", "rank0.engine", "tokenizer.json", "serving.json"}
    assert (place / "ensemble" / "1").is_dir()
    for model in ("tensorrt_llm", "preprocessing", "postprocessing"):
        assert f'string_value: "{engine}"' in (place / model / "config.pbtxt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"], "nothing is left beside it"
    assert CliRunner().invoke(main, command, env=environment).exit_code == 0, "the same again is checked"
    (place / "preprocessing" / "1" / "model.py").write_text("import os")
    assert CliRunner().invoke(main, command, env=environment).exit_code == 2


def test_an_engine_says_how_it_is_served_and_check_where_it_runs(running_farm: RunningFarm, client: Farm) -> None:
    key = client.wait(client.submit(spec(running_farm)).id, timeout=60).key
    serving: Any = client.engine(key).provenance["serving"]
    assert serving["world_size"] == 1
    assert serving["launch"]["run"]["argv"][-2:] == ["--max_output_len", "32"]
    assert [image["image"] for image in serving["images"]] == [IMAGE]
    checked = CliRunner().invoke(main, ["check", key, "--json"], env={"ENGINEFARM_URL": running_farm.urls[0]})
    answer = json.loads(checked.stdout)
    if detect().platform.gpu is None:
        assert checked.exit_code == 7
        assert answer["differences"]["gpu"] == {"needed": "NVIDIA H100 80GB HBM3", "found": None}


def test_the_timing_cache_of_one_build_warms_the_next(running_farm: RunningFarm, client: Farm) -> None:
    model = {
        "model": f"file:{make_tiny_llama(running_farm.models / 'warm', seed=2)}",
        "precision": {"dtype": "float16"},
    }
    first = _ended(client, spec(running_farm, max_batch_size=1) | model)
    assert first.attempts[-1].warm is False
    # The worker names the cache after it has published the engine.
    eventually(lambda: _timing_caches(running_farm))
    second = _ended(client, spec(running_farm, max_batch_size=2) | model)
    attempt = eventually(lambda: next((each for each in client.build(second.id).attempts[-1:] if each.warm), None))
    assert attempt.saved_seconds is not None
    log = "\n".join(client.logs(second.id))
    assert "starts warm" in log
    assert "of timing cache" in log

    for blob in _timing_caches(running_farm):
        blob.unlink()
    third = _ended(client, spec(running_farm, max_batch_size=3) | model)
    assert third.state == "succeeded", "a lost timing cache costs time and nothing else"
    assert third.attempts[-1].warm is False


def key_of(explanation: Explanation) -> str:
    assert explanation.key is not None
    return explanation.key


def _ended(client: Farm, wanted: dict[str, Any]) -> Build:
    return client.wait(client.submit(wanted).id, timeout=60)


def _timing_caches(running_farm: RunningFarm) -> list[Path]:
    with running_farm.database.read() as session:
        digests = [row.blob.removeprefix("sha256:") for row in session.execute(select(WarmFileRow)).scalars()]
    return [path for path in (running_farm.state / "store").rglob("*") if path.name in digests]


def test_an_engine_keeps_requested_normalized_and_effective_settings(running_farm: RunningFarm, client: Farm) -> None:
    asked = spec(running_farm, max_num_tokens=10_000) | {"options": {"gemm_plugin": "bfloat16"}}
    submitted = client.submit(asked)
    rewritten = {note.code: (note.value, note.expected) for note in submitted.notes}
    assert rewritten["tokens_clip"] == (10_000, str(4 * 96))
    written = client.wait(submitted.id, timeout=60).asked
    assert written == asked | {"limits": asked["limits"] | {"max_seq_len": 96}}  # the lengths follow from each other
    engine: Any = client.engine(submitted.key)
    assert engine.spec["limits"]["max_num_tokens"] == 4 * 96
    assert engine.effective["build_config"]["max_num_tokens"] == 4 * 96
    assert engine.differences == []


def test_a_calibrated_conversion_is_for_workers_that_have_a_gpu(running_farm: RunningFarm, client: Farm) -> None:
    data = running_farm.models / "news"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "once"}')
    calibrated = {"precision": {"dtype": "bfloat16", "quantization": "fp8"}, "calibration": f"file:{data}"}
    ended = _ended(client, spec(running_farm) | calibrated)
    assert ended.state == "succeeded", ended.error
    with running_farm.database.read() as session:
        build = session.get_one(ActionRow, ended.key)
        queues = [session.get_one(ActionRow, key).queue for key in (build.depends_on, ended.key) if key]
    assert queues[0] == f"convert.trtllm.{VERSION}.gpu"
    assert queues[1].startswith(f"build.trtllm.{VERSION}.")


def test_calibration_data_are_fetched_at_the_commit_of_the_submit(
    running_farm: RunningFarm, client: Farm, hub: Hub
) -> None:
    commit = hub.push("datasets/org/news", {"data/train.jsonl": b'{"text": "once"}', "news.py": b"raise SystemExit"})
    calibrated = {"precision": {"dtype": "bfloat16", "quantization": "int8_sq"}, "calibration": "hf:org/news"}
    ended = _ended(client, spec(running_farm) | calibrated)
    assert ended.state == "succeeded", ended.error
    assert hub.asked_for(f"resolve/{commit}/data/train.jsonl")
    assert not hub.asked_for("news.py")


def medusa(running_farm: RunningFarm, heads: str, **options: Any) -> dict[str, Any]:
    return spec(running_farm) | {
        "options": {"speculative_decoding_mode": "medusa", "medusa_model_dir": heads} | options,
        "precision": {"dtype": "bfloat16"},
    }


def test_draft_heads_of_a_second_model_are_keyed_by_their_commit(
    running_farm: RunningFarm, client: Farm, hub: Hub
) -> None:
    files = {path.name: path.read_bytes() for path in make_heads(running_farm.state / "heads").iterdir()}
    commit = hub.push("org/heads", files | {"medusa_lm_head.pt": b"a pickle"})
    hub.push("org/heads", {"config.json": b"{}"} | files, branch="v1")
    told = client.explain(medusa(running_farm, "hf:org/heads"))
    assert "{medusa_model_dir}" in next(command.argv for command in told.commands if command.stage is Stage.CONVERT)
    assert told.key == client.explain(medusa(running_farm, f"hf:org/heads@{commit}")).key
    assert told.key != client.explain(medusa(running_farm, "hf:org/heads@v1")).key
    assert told.key != client.explain(medusa(running_farm, "hf:org/heads", num_medusa_heads=2)).key

    ended = _ended(client, medusa(running_farm, "hf:org/heads@main"))
    assert (ended.state, ended.key) == ("succeeded", told.key), ended.error
    engine: Any = client.engine(key_of(told))
    assert engine.spec["options"]["medusa_model_dir"] == f"hf:org/heads@{commit}"
    assert engine.differences == []
    assert hub.asked_for(f"resolve/{commit}/medusa_lm_head.safetensors")
    assert not hub.asked_for("medusa_lm_head.pt")
    with running_farm.database.read() as session:
        convert = session.get_one(ActionRow, told.convert_key)
        named = {"source": "hf", "repo": "org/heads", "commit": commit}
        assert convert.document["options"]["medusa_model_dir"] == named
        assert "medusa_model_dir" not in session.get_one(ActionRow, told.key).document["options"]


@pytest.mark.parametrize(
    ("mode", "option", "architecture"),
    [
        ("eagle", "eagle_model_dir", "EagleForCausalLM"),
        ("explicit_draft_tokens", "drafter_model_dir", "ReDrafterForLLaMALM"),
    ],
)
def test_eagle_and_redrafter_heads_make_engines(
    running_farm: RunningFarm, client: Farm, hub: Hub, mode: str, option: str, architecture: str
) -> None:
    made = make_heads(running_farm.state / mode, "model.safetensors")
    commit = hub.push(f"org/{mode}", {path.name: path.read_bytes() for path in made.iterdir()})
    options = {"speculative_decoding_mode": mode, option: f"hf:org/{mode}"}
    ended = _ended(client, spec(running_farm) | {"options": options, "precision": {"dtype": "bfloat16"}})
    assert ended.state == "succeeded", ended.error
    engine: Any = client.engine(ended.key)
    assert engine.spec["options"][option] == f"hf:org/{mode}@{commit}"
    assert engine.effective["pretrained_config"]["architecture"] == architecture
    assert engine.differences == []


def test_an_encoder_decoder_is_one_build_of_two_engines(
    running_farm: RunningFarm, client: Farm, tmp_path: Path
) -> None:
    wanted = spec(running_farm) | {"model": f"file:{make_tiny_t5(running_farm.models / 't5')}", "options": {}}
    told = client.explain(wanted)
    assert [command.argv[0] for command in told.commands].count("trtllm-build") == 2
    (convert,) = (command.argv for command in told.commands if "enc_dec/convert_checkpoint.py" in command.argv[1])
    assert "--output_dir {output}" in " ".join(convert)
    decoder = next(command.argv for command in told.commands if "{source}/decoder" in command.argv)
    assert "--max_input_len 1 --max_seq_len 33 --max_encoder_input_len 64" in " ".join(decoder)

    ended = _ended(client, wanted)
    assert (ended.state, ended.key) == ("succeeded", told.key), ended.error
    assert [attempt.stage for attempt in ended.attempts] == [Stage.CONVERT, Stage.BUILD]
    engine: Any = client.engine(key_of(told))
    assert engine.differences == []
    lengths = [engine.effective[half]["build_config"]["max_seq_len"] for half in ("encoder", "decoder")]
    assert lengths == [64, 33]
    folder = fetch.pull(client, engine, tmp_path / "engine", any_platform=True)
    for half in ("encoder", "decoder"):
        assert {path.name for path in (folder / half).iterdir()} == {"config.json", "rank0.engine"}
    assert (folder / "tokenizer.json").is_file()

    limits = {"max_batch_size": 4, "max_input_len": 32, "max_output_len": 32}
    assert client.resolve({"model": wanted["model"], "limits": limits}).engine.key == told.key
    with pytest.raises(NotFound):  # what a shorter input leaves is no room for output
        client.resolve({"model": wanted["model"], "limits": limits | {"max_output_len": 33}})
    place = tmp_path / "triton"
    command = ["pull", told.key, str(place), "--triton", "--any-platform"]
    laid_out = CliRunner().invoke(main, command, env={"ENGINEFARM_URL": running_farm.urls[0]})
    assert laid_out.exit_code == 0, laid_out.output
    for half in ("encoder", "decoder"):
        assert f'"{place}/tensorrt_llm/1/{half}"' in (place / "tensorrt_llm" / "config.pbtxt").read_text()
        assert (place / "tensorrt_llm" / "1" / half / "rank0.engine").is_file()


def test_a_whisper_of_openai_is_built_from_its_pickle(running_farm: RunningFarm, client: Farm, tmp_path: Path) -> None:
    sandbox()  # without it no worker reads a pickle, and the test is skipped
    limits = {"max_input_len": 3000, "max_output_len": 100}
    folder = make_openai_whisper(running_farm.models / "whisper")
    ended = _ended(client, spec(running_farm, **limits) | {"model": f"file:{folder}"})
    assert ended.state == "succeeded", ended.error
    engine = client.engine(ended.key)
    assert engine.differences == []
    folder = fetch.pull(client, engine, tmp_path / "engine", any_platform=True)
    assert {path.name for path in folder.iterdir()} >= {"encoder", "decoder", "multilingual.tiktoken"}
    assert "whisper_bls" in str(engine.provenance["serving"])


def test_an_option_that_the_script_ignores_is_refused_at_submit(running_farm: RunningFarm, client: Farm) -> None:
    wanted = spec(running_farm) | {
        "model": f"file:{make_tiny_t5(running_farm.models / 'forgotten')}", "options": {"max_encoder_input_len": 8},
        "precision": {"dtype": "bfloat16", "quantization": "int8_wo"},
    }  # fmt: skip
    with pytest.raises(InvalidSpec) as caught:
        client.submit(wanted)
    assert {problem.pointer for problem in caught.value.problems} == {
        "/precision/quantization", "/options/max_encoder_input_len",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("heads", "code"),
    [
        ("hf:org/nowhere", "model_not_found"),
        ("hf:org/pickled", "model_only_pickle"),
        ("file:/etc", "model_outside_roots"),
        ("s3://bucket/heads", "data_source_unknown"),
        ("heads", "model_reference"),
    ],
)
def test_unreadable_draft_heads_are_refused_at_submit(
    running_farm: RunningFarm, client: Farm, hub: Hub, heads: str, code: str
) -> None:
    hub.push("org/pickled", {"config.json": b"{}", "medusa_lm_head.pt": b"a pickle"})
    with pytest.raises(InvalidSpec) as caught:
        client.submit(medusa(running_farm, heads))
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code, problem.value) == ("/options/medusa_model_dir", code, heads)
    assert problem.remedy


def adapted(running_farm: RunningFarm, *adapters: str, **options: Any) -> dict[str, Any]:
    return spec(running_farm) | {
        "options": {"lora_dir": list(adapters), "lora_plugin": "auto"} | options,
        "precision": {"dtype": "bfloat16"},
    }


def test_adapters_enter_the_build_key_only_and_are_stored_with_the_engine(
    running_farm: RunningFarm, client: Farm, hub: Hub, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in make_adapter(running_farm.state / "adapter").iterdir()}
    commit = hub.push("org/adapter", files | {"adapter_model.bin": b"a pickle", "tokenizer.json": b"{}"})
    folder = make_adapter(running_farm.models / "adapter", target_modules=["k_proj"])
    told = client.explain(adapted(running_farm, "hf:org/adapter", f"file:{folder}"))
    assert told.findings == []
    assert "{lora_dir.1}" in next(command.argv for command in told.commands if command.stage is Stage.BUILD)
    plain = client.explain(spec(running_farm) | {"precision": {"dtype": "bfloat16"}})
    assert told.convert_key == plain.convert_key
    assert told.key not in (plain.key, client.explain(adapted(running_farm, "hf:org/adapter")).key)
    assert told.key == client.explain(adapted(running_farm, f"hf:org/adapter@{commit}", f"file:{folder}")).key

    ended = _ended(client, adapted(running_farm, "hf:org/adapter@main", f"file:{folder}"))
    assert (ended.state, ended.key) == ("succeeded", told.key), ended.error
    engine: Any = client.engine(key_of(told))
    assert engine.spec["options"]["lora_dir"] == [f"hf:org/adapter@{commit}", f"file:{folder}"]
    assert engine.differences == []
    pulled = fetch.pull(client, engine, tmp_path / "engine", any_platform=True)
    assert {path.name: path.read_bytes() for path in (pulled / "lora" / "0").iterdir()} == files
    assert not hub.asked_for("adapter_model.bin")
    with running_farm.database.read() as session:
        first, second = session.get_one(ActionRow, told.key).document["options"]["lora_dir"]
    assert first == {"source": "hf", "repo": "org/adapter", "commit": commit}
    assert second.keys() == {"source", "digest"}


def test_resolve_returns_an_engine_with_adapters_only_on_request(running_farm: RunningFarm, client: Farm) -> None:
    model = {"model": f"file:{make_tiny_llama(running_farm.models / 'adapted', seed=3)}"}
    adapter = f"file:{make_adapter(running_farm.models / 'its-own')}"
    ended = _ended(client, adapted(running_farm, adapter) | model)
    assert ended.state == "succeeded", ended.error
    wanted = {"limits": spec(running_farm)["limits"]} | model
    with pytest.raises(NotFound) as caught:
        client.resolve(wanted)
    assert [(problem.pointer, problem.value) for problem in caught.value.problems] == [("/options/lora_dir", None)]
    assert client.resolve(wanted | {"options": {"lora_dir": [adapter]}}).engine.key == ended.key
    plain = _ended(client, spec(running_farm) | model)
    assert client.resolve(wanted).engine.key == plain.key


def test_every_fault_of_adapters_is_reported_at_submit(running_farm: RunningFarm, client: Farm, hub: Hub) -> None:
    wide = make_adapter(running_farm.models / "wide", r=128, target_modules=["lm_head"])
    broken = make_adapter(running_farm.models / "broken")
    (broken / "adapter_config.json").write_text("{")
    hub.push("org/pickled", {"adapter_config.json": b"{}", "adapter_model.bin": b"a pickle"})
    for adapters, codes in (
        ((f"file:{wide}",), {("/options/lora_dir/0", "lora_rank"), ("/options/lora_dir/0", "lora_modules")}),
        (
            ("hf:org/pickled", f"file:{broken}"),
            {("/options/lora_dir/0", "model_only_pickle"), ("/options/lora_dir/1", "model_config_invalid")},
        ),
    ):
        with pytest.raises(InvalidSpec) as caught:
            client.submit(adapted(running_farm, *adapters))
        assert {(problem.pointer, problem.code) for problem in caught.value.problems} == codes


@pytest.mark.parametrize("cause", ["unsupported_precision", "tensor_volume"])
def test_a_failure_that_no_retry_can_help_is_tried_once(running_farm: RunningFarm, client: Farm, cause: str) -> None:
    order(running_farm.state / "h100", VERSION, build={"mode": cause})
    ended = client.wait(client.submit(spec(running_farm, max_batch_size=3, max_beam_width=len(cause))).id, timeout=60)
    order(running_farm.state / "h100", VERSION)
    assert (ended.state, ended.error and ended.error.cause, ended.error and ended.error.fault) == (
        "failed", cause, "caller",
    )  # fmt: skip
    assert [attempt.stage for attempt in ended.attempts].count(Stage.BUILD) == 1
    assert ended.error
    assert any(ended.error.detail in line for line in client.logs(ended.id))


def test_four_shapes_and_a_second_gpu_convert_once(running_farm: RunningFarm, client: Farm) -> None:
    model = make_tiny_llama(running_farm.models / "shapes", seed=1)
    before = running_farm.outcomes()
    shapes = spec(running_farm, max_batch_size=[1, 8], max_input_len=[16, 64]) | {"model": f"file:{model}"}
    cells = client.submit_matrix(shapes).cells
    builds = [cell.submitted for cell in cells if cell.submitted]
    assert len({build.key for build in builds}) == 4
    assert {client.wait(build.id, timeout=120).state for build in builds} == {"succeeded"}
    after = running_farm.outcomes()
    assert after[("convert", "succeeded")] - before.get(("convert", "succeeded"), 0) == 1
    assert after[("build", "succeeded")] - before.get(("build", "succeeded"), 0) == 4

    gpu_worker(running_farm, "a100", A100)
    other = spec(running_farm) | {"model": f"file:{model}", "platform": {"gpu": "NVIDIA A100-SXM4-80GB"}}
    assert client.wait(client.submit(other).id, timeout=60).state == "succeeded"
    last = running_farm.outcomes()
    assert last[("convert", "succeeded")] == after[("convert", "succeeded")]
    assert last[("build", "succeeded")] == after[("build", "succeeded")] + 1


def weight_only(running_farm: RunningFarm, gpu: str) -> dict[str, Any]:
    return spec(running_farm) | {
        "precision": {"dtype": "float16", "quantization": "int8_wo"}, "platform": {"gpu": gpu.split(",")[0]},
    }  # fmt: skip


def test_weight_only_weights_are_converted_on_a_gpu_of_the_engines_sm(running_farm: RunningFarm, client: Farm) -> None:
    if "a100" not in [worker.name for worker in client.workers()]:
        gpu_worker(running_farm, "a100", A100)
    checkpoints = set()
    for gpu, sm in ((H100, "90"), (A100, "80")):
        told = client.explain(weight_only(running_farm, gpu))
        assert told.stages[0].queue == f"convert.trtllm.{VERSION}.sm{sm}"
        ended = _ended(client, weight_only(running_farm, gpu))
        assert (ended.state, ended.key) == ("succeeded", told.key), ended.error
        assert [attempt.platform and attempt.platform.sm for attempt in ended.attempts] == [sm, sm]
        engine = client.engine(ended.key)
        assert engine.checkpoint_document["platform"] == {"sm": sm}
        checkpoints.add(told.convert_key)
        with running_farm.database.read() as session:
            assert session.get_one(ActionRow, told.convert_key).work["version"] == 2
    assert len(checkpoints) == 2, "no GPU gets the layout of another"


def test_a_recall_finds_engines_whose_weights_may_be_laid_out_for_another_sm(
    running_farm: RunningFarm, client: Farm
) -> None:
    ended = _ended(client, weight_only(running_farm, H100))
    assert ended.state == "succeeded", ended.error
    convert = str(client.engine(ended.key).document["convert"])

    def listed(*options: str) -> dict[str, Any]:
        command = ["recall", "--dry-run", "--json", *options]
        answer = CliRunner().invoke(main, command, env={"ENGINEFARM_URL": running_farm.urls[0]})
        assert answer.exit_code == 0, answer.output
        return dict(json.loads(answer.stdout))

    assert listed("--layout", "unnamed-sm")["engines"] == []
    with running_farm.database.write() as session:
        # As a release before the document's version 2 stored it, for work of version 1.
        action = session.get_one(ActionRow, convert)
        action.document = action.document | {"document": "enginefarm.convert/1"}
    found = listed("--layout", "unnamed-sm", "--toolchain", f"trtllm@{VERSION}")
    assert (found["engines"], found["checkpoints"]) == ([ended.key], [convert])
    assert listed("--layout", "unnamed-sm", "--toolchain", "trtllm@1.0.0")["engines"] == []
    assert listed("--layout", "other-sm")["engines"] == [], "it was converted on SM 90"
    with running_farm.database.write() as session:
        a100 = session.execute(select(WorkerRow.id).where(WorkerRow.name == "a100")).scalar_one()
        session.execute(update(AttemptRow).where(AttemptRow.action_key == convert).values(worker_id=a100))
    found = listed("--layout", "other-sm")
    assert (found["engines"], found["checkpoints"]) == ([ended.key], [])
    assert ended.key in [engine.key for engine in client.engines()], "a dry run withdraws nothing"

    recalled = client.recall({"layout": "other_sm", "rebuild": True, "reason": "converted on an A100"})
    assert recalled.engines == [ended.key]
    (rebuild,) = recalled.builds
    again = client.wait(rebuild, timeout=60)
    assert again.state == "failed", "the checkpoint is still the one of the A100"
    assert again.error
    assert again.error.cause == "checkpoint_of_other_sm"
    assert "was converted on a GPU of SM 80, this engine is for SM 90" in again.error.detail


def test_a_conversion_that_an_earlier_api_planned_moves_to_a_worker_of_its_sm(
    running_farm: RunningFarm, client: Farm
) -> None:
    if "a100" not in [worker.name for worker in client.workers()]:
        gpu_worker(running_farm, "a100", A100)
    client.drain("a100")
    model = {"model": f"file:{make_tiny_llama(running_farm.models / 'earlier', seed=9)}"}
    build = client.submit(weight_only(running_farm, A100) | model)
    with running_farm.database.write() as session:
        convert = session.get_one(ActionRow, str(session.get_one(ActionRow, build.key).depends_on))
        assert convert.queue == f"convert.trtllm.{VERSION}.sm80"
        job = {name: value for name, value in convert.work["job"].items() if name != "sm"}
        convert.work = convert.work | {"version": 1, "job": job}
        convert.queue = f"convert.trtllm.{VERSION}"
        convert.document = convert.document | {"document": "enginefarm.convert/1"}
        convert.announced_at = None
    key = convert.key

    def handed_over() -> bool:
        with running_farm.database.read() as session:
            return session.get_one(ActionRow, key).queue.endswith(".sm80")

    eventually(handed_over)
    waiting_for = client.build(build.id).waiting_for or ""
    assert waiting_for.endswith(".sm80: start or upgrade one with a GPU of SM 80, or cancel the build")
    client.release("a100")
    ended = client.wait(build.id, timeout=60)
    assert ended.state == "succeeded", ended.error
    attempts = [(attempt.worker, attempt.outcome) for attempt in ended.attempts]
    assert attempts[-2:] == [("a100", "succeeded"), ("a100", "succeeded")]
    # More than once if the sweep announced the conversion again meanwhile.
    assert set(attempts[:-2]) == {("h100", "handed_back")}


def test_two_workers_on_one_gpu_build_one_after_the_other(running_farm: RunningFarm, client: Farm) -> None:
    """Also when the one that has the GPU is killed: its lock goes with its lease."""
    gpu_worker(running_farm, "h100-b", H100)
    for name in ("h100", "h100-b"):
        order(running_farm.state / name, VERSION, build={"mode": "hang"})
    builds = []
    for length in (100, 101):
        limits = spec(running_farm, max_batch_size=5, max_input_len=length)
        builds.append(client.submit(limits | {"platform": {"gpu": H100.split(",")[0]}}))
    by_worker: dict[str, Any] = {}

    def one_waits() -> str | None:
        by_worker.update({worker.name: worker for worker in client.workers()})
        waits = [worker.name for worker in by_worker.values() if worker.waits_for]
        return waits[0] if waits else None

    waiting = eventually(one_waits)
    holder = "h100" if waiting == "h100-b" else "h100-b"
    assert by_worker[holder].running
    assert by_worker[waiting].running is None, "it holds no lease while it waits"
    assert by_worker[waiting].waits_for == f"GPU GPU-8a2c is in use by {holder} ({by_worker[holder].running[:12]})"
    queued = next(build for build in builds if client.build(build.id).state == "queued")
    assert f"{waiting} waits: GPU GPU-8a2c is in use by {holder}" in (client.build(queued.id).waiting_for or "")

    process = next(process for process in running_farm.processes if process.name == holder)
    process.kill()
    for name in ("h100", "h100-b"):
        order(running_farm.state / name, VERSION)
    assert [client.wait(build.id, timeout=60).state for build in builds] == ["succeeded", "succeeded"]
    with running_farm.database.read() as session:
        query = select(AttemptRow).where(AttemptRow.action_key.in_([build.key for build in builds]))
        attempts = session.execute(query.order_by(AttemptRow.started_at)).scalars().all()
        assert [attempt.outcome for attempt in attempts] == ["lost", "succeeded", "succeeded"]
        lost, first, second = attempts
        assert lost.ended_at is not None
        assert first.started_at > lost.ended_at
        # While the first uploads, the second may begin.
        programs = timedelta(seconds=first.steps["fetch"] + first.steps["build"])
        assert second.started_at > first.started_at + programs
        assert session.execute(select(GpuLockRow)).first() is None
