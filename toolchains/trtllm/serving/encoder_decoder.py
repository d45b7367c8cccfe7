"""The parts of Triton model configurations that differ for encoder-decoders.

The decoder is the engine of the model `tensorrt_llm`, and a parameter names the encoder. Each output starts with the
token that the decoder's config.json names: without it the backend would start with the padding token, which is right
for T5 and wrong for BART. Names and values are those of docs/encoder_decoder.md of
triton-inference-server/tensorrtllm_backend @05ceae03 and of
triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt of NVIDIA/TensorRT-LLM @0c8de69a.
"""

from __future__ import annotations

from collections.abc import Mapping

from enginefarm.contract.spec import BuildSpec

# placeholder of the templates in `triton/` → its text for an encoder-decoder. A text begins with its separator, a comma
# or a line break, so that a template is complete without it.
_ENCODER_DECODER: Mapping[str, str] = {
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
# Other engines are one directory and have no start token.
_DECODER_ONLY: Mapping[str, str] = dict.fromkeys(_ENCODER_DECODER, "") | {"engine": "{engine}"}


def placeholders(*, is_encoder_decoder: bool) -> Mapping[str, str]:
    """Values of the templates' placeholders."""
    return _ENCODER_DECODER if is_encoder_decoder else _DECODER_ONLY


def parameters() -> dict[str, str]:
    """Parameters of the model `tensorrt_llm` for an encoder-decoder.

    Half of the key/value cache stores the encoder's output. Cache blocks are not used again.
    """
    return {
        "encoder_model_path": "{engine}/encoder",
        "cross_kv_cache_fraction": "0.5",
        "enable_kv_cache_reuse": "false",
        "enable_chunked_context": "false",
    }


def obstacle(spec: BuildSpec, *, batching: str) -> str | None:
    """Why Triton cannot serve this encoder-decoder; None if it can. `batching` is the value of gpt_model_type."""
    if spec.parallelism.pp > 1:
        return "the C++ runtime, and so Triton, takes no pipeline stages of an encoder-decoder: build it with pp 1"
    if batching == "V1":
        return (
            "Triton's encoder-decoders are shown with in-flight batching alone: build it with packed input and a paged "
            "key/value cache"
        )
    return None
