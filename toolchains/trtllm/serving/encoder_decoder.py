"""What a Triton server reads of an encoder-decoder beside what it reads of any engine.

The decoder is the engine of the model `tensorrt_llm`, and a parameter names the encoder. Each output starts with the
token that the decoder's config.json names: without it the backend would take the padding token, right for T5 and wrong
for BART. Names and values are those of docs/encoder_decoder.md of triton-inference-server/tensorrtllm_backend @05ceae03
and of triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt of NVIDIA/TensorRT-LLM @0c8de69a.
"""

from __future__ import annotations

from collections.abc import Mapping

from enginefarm.contract.spec import BuildSpec

_OF_BOTH: Mapping[str, str] = {
    "engine": "{engine}/decoder",
    "start_made": """
      output_map { key: "DECODER_INPUT_ID" value: "_start" }
      output_map { key: "REQUEST_DECODER_INPUT_LEN" value: "_start_length" }""",
    "start_taken": """
      input_map { key: "decoder_input_ids" value: "_start" }
      input_map { key: "decoder_input_lengths" value: "_start_length" }""",
    "start_outputs": """,
  { name: "DECODER_INPUT_ID" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "REQUEST_DECODER_INPUT_LEN" data_type: TYPE_INT32 dims: [ 1 ] }""",
    "start_from": """
parameters: { key: "decoder_dir" value: { string_value: "{engine}/decoder" } }""",
    "start_inputs": """,
  { name: "decoder_input_ids" data_type: TYPE_INT32 dims: [ -1 ] optional: true allow_ragged_batch: true },
  { name: "decoder_input_lengths" data_type: TYPE_INT32 dims: [ 1 ] optional: true reshape: { shape: [ ] } }""",
}
_PLAIN: Mapping[str, str] = dict.fromkeys(_OF_BOTH, "") | {"engine": "{engine}"}


def places(*, two: bool) -> Mapping[str, str]:
    """What goes into the templates' places."""
    return _OF_BOTH if two else _PLAIN


def parameters() -> dict[str, str]:
    """Of the model `tensorrt_llm`. Half of the cache is for what the encoder made; blocks are not used again."""
    return {
        "encoder_model_path": "{engine}/encoder",
        "cross_kv_cache_fraction": "0.5",
        "enable_kv_cache_reuse": "false",
        "enable_chunked_context": "false",
    }


def obstacle(spec: BuildSpec, *, batching: str) -> str | None:
    """Why Triton cannot serve this one."""
    if spec.parallelism.pp > 1:
        return "the C++ runtime, and so Triton, takes no pipeline stages of an encoder-decoder: build it with pp 1"
    if batching == "V1":
        return (
            "Triton's encoder-decoders are shown with in-flight batching alone: build it with packed input and a paged "
            "key/value cache"
        )
    return None
