"""Random Whispers of a few kilobytes, in OpenAI's form and in that of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.doubles import tensors
from tests.doubles.tiny_models.llama import write_tokenizer
from tests.imported_later import ImportedLater

if TYPE_CHECKING:
    import torch
else:
    torch = ImportedLater("torch")

DIMENSIONS = {
    "n_mels": 80, "n_vocab": 128, "n_audio_ctx": 1500, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2,
    "n_text_ctx": 448, "n_text_state": 64, "n_text_head": 4, "n_text_layer": 3,
}  # fmt: skip
# Hugging Face's names of what a layer has, with OpenAI's; the keys of an attention have no bias.
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
LAYER = {"self_attn_layer_norm": "attn_ln", "final_layer_norm": "mlp_ln", "fc1": "mlp.0", "fc2": "mlp.2"}
OUTER = {
    "encoder.conv1.weight": "encoder.conv1.weight", "encoder.conv1.bias": "encoder.conv1.bias",
    "encoder.conv2.weight": "encoder.conv2.weight", "encoder.conv2.bias": "encoder.conv2.bias",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm.weight": "encoder.ln_post.weight", "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.layer_norm.weight": "decoder.ln.weight", "decoder.layer_norm.bias": "decoder.ln.bias",
}  # fmt: skip


def openai_names() -> dict[str, str]:
    """Hugging Face's name of each tensor, with OpenAI's."""
    both = dict(OUTER)
    for half, part in (("encoder", "audio"), ("decoder", "text")):
        for layer in range(DIMENSIONS[f"n_{part}_layer"]):
            theirs, ours = f"{half}.layers.{layer}", f"{half}.blocks.{layer}"
            inner = dict(LAYER)
            if half == "decoder":
                inner["encoder_attn_layer_norm"] = "cross_attn_ln"
            for name, openai in inner.items():
                both |= {f"{theirs}.{name}.{end}": f"{ours}.{openai}.{end}" for end in ("weight", "bias")}
            attentions = {"self_attn": "attn"} | ({"encoder_attn": "cross_attn"} if half == "decoder" else {})
            for attention, openai in attentions.items():
                for name, short in ATTENTION.items():
                    both[f"{theirs}.{attention}.{name}.weight"] = f"{ours}.{openai}.{short}.weight"
                    if short != "key":
                        both[f"{theirs}.{attention}.{name}.bias"] = f"{ours}.{openai}.{short}.bias"
    return both


def weights() -> dict[str, Any]:
    """By Hugging Face's names. Each differs, so that a test notices if two are confused."""
    random = np.random.default_rng(0)
    return {name: random.normal(0, 1, (4, 4)).astype(np.float16) for name in openai_names()}


def make_openai_whisper(directory: Path, name: str = "large-v3.pt", **content: object) -> Path:
    """`content`: more than dims and weights in the pickle."""
    directory.mkdir(parents=True, exist_ok=True)
    values = weights()
    state = {openai: torch.from_numpy(values[theirs]) for theirs, openai in openai_names().items()}
    torch.save({"dims": DIMENSIONS, "model_state_dict": state, **content}, directory / name)
    (directory / "multilingual.tiktoken").write_text("IQ== 0\n")
    return directory


def make_hugging_face_whisper(directory: Path, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "is_encoder_decoder": True,
        "torch_dtype": "float16", "d_model": 64, "vocab_size": 128, "num_mel_bins": 80, "num_hidden_layers": 2,
        "max_source_positions": 1500, "max_target_positions": 448, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(settings | config))
    tensors.write(
        directory / "model.safetensors", {f"model.{name}": tensor for name, tensor in weights().items()}, "float16"
    )
    write_tokenizer(directory, 128)
    return directory
