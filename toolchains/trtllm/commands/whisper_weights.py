"""Write the weights of a Whisper under OpenAI's names as safetensors: `whisper_weights.py SOURCE TARGET`.

SOURCE is a model in Hugging Face form, or has one `.pt` file of OpenAI. The file is a pickle, so that this program runs
in a sandbox alone and loads tensors and plain values only. TARGET/model.safetensors gets the sizes as metadata: `dims`.

The interpreter of the release's image runs this program: it has torch and safetensors, and its Python may be 3.10.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

# Size of OpenAI's form → the key of a Hugging Face config.json. These names and those of the tensors are in
# examples/models/core/whisper/distil_whisper/convert_from_distil_whisper.py @b88a30b1 of NVIDIA/TensorRT-LLM.
DIMENSIONS = {
    "n_mels": "num_mel_bins",
    "n_vocab": "vocab_size",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# Parts of a tensor's name in Hugging Face form → OpenAI's.
LAYER_PARTS = {
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
OUTER_NAMES = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
    **{f"encoder.{name}": f"encoder.{name}" for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")},
}
EMBEDDING = "decoder.token_embedding.weight"
OUTPUT_PROJECTION = "proj_out.weight"
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")

Weights = dict[str, torch.Tensor]


class NoWhisper(Exception):
    """The model cannot be converted; the text is one line for its owner."""


def read_model(source: Path) -> tuple[dict[str, int], Weights]:
    """Return the sizes and the weights, under OpenAI's names, of the model in `source`.

    Raises:
        NoWhisper: it is no Whisper, or its pickle has more than tensors in it.
    """
    if any(source.glob("*.safetensors")):
        return read_hugging_face(source)
    pickles = sorted(source.glob("*.pt"))
    if len(pickles) != 1:
        raise NoWhisper("the model has neither safetensors weights nor one .pt file of OpenAI")
    return read_pickle(pickles[0])


def read_pickle(path: Path) -> tuple[dict[str, int], Weights]:
    """Load a file of OpenAI without running anything of it; see `read_model`."""
    if not zipfile.is_zipfile(path):
        raise NoWhisper(f"{path.name} is not what torch.save writes since PyTorch 1.6")
    with zipfile.ZipFile(path) as archive:
        members = [name.partition("/")[2] for name in archive.namelist()]
    # torch before 2.6 loads such an archive with torch.jit, whatever weights_only says (CVE-2025-32434).
    if any(name == "constants.pkl" or name.startswith("code/") for name in members):
        raise NoWhisper(f"{path.name} is refused: it is a TorchScript archive, which has code in it")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # The first line has the reason, and the others advise to load it anyway.
        reason = re.search(r"Unsupported \w+.*|GLOBAL \S+|Trying to .*", str(error))
        detail = reason[0] if reason else str(error).splitlines()[0]
        raise NoWhisper(f"{path.name} is refused: the pickle has more than tensors in it: {detail}") from error
    except (RuntimeError, ValueError, EOFError) as error:
        raise NoWhisper(f"{path.name} is damaged: {str(error).splitlines()[0]}") from error
    dims = content.get("dims") if isinstance(content, dict) else None
    weights = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(dims, dict) or not isinstance(weights, dict):
        raise NoWhisper(f"{path.name} is no Whisper of OpenAI: it has no dims and model_state_dict")
    if not all(isinstance(dims.get(name), int) for name in DIMENSIONS):
        raise NoWhisper(f"{path.name} is no Whisper of OpenAI: dims lacks one of {', '.join(DIMENSIONS)}")
    if not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise NoWhisper(f"{path.name} is no Whisper of OpenAI: model_state_dict has more than tensors in it")
    return {name: dims[name] for name in DIMENSIONS}, weights


def read_hugging_face(source: Path) -> tuple[dict[str, int], Weights]:
    """Read safetensors and config.json, in float16 as OpenAI's own files are; see `read_model`."""
    config: dict[str, Any] = json.loads((source / "config.json").read_bytes())
    missing = [key for key in DIMENSIONS.values() if not isinstance(config.get(key), int)]
    if missing:
        raise NoWhisper(f"config.json states no {', '.join(missing)}")
    weights: Weights = {}
    projection = None
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name).half()
                if name == OUTPUT_PROJECTION:
                    projection = tensor
                else:
                    weights[openai_name(name)] = tensor
    # OpenAI's form has one matrix for both, and the script writes it twice.
    if projection is not None and not torch.equal(projection, weights.get(EMBEDDING, torch.empty(0))):
        raise NoWhisper(f"{OUTPUT_PROJECTION} is not the embedding, and the script writes the embedding in its place")
    return {name: config[key] for name, key in DIMENSIONS.items()}, weights


def openai_name(name: str) -> str:
    """Return OpenAI's name of a tensor of a Hugging Face Whisper.

    Raises:
        NoWhisper: no Whisper has such a tensor.
    """
    bare_name = name.removeprefix("model.")
    layer = _LAYER.fullmatch(bare_name)
    if layer is not None and layer[3] in LAYER_PARTS:
        return f"{layer[1]}.blocks.{layer[2]}.{LAYER_PARTS[layer[3]]}.{layer[4]}"
    if bare_name in OUTER_NAMES:
        return OUTER_NAMES[bare_name]
    raise NoWhisper(f"the model has the tensor {name[:80]}, which no Whisper has")


def main(arguments: list[str]) -> int:
    source, target = map(Path, arguments)
    try:
        dims, weights = read_model(source)
    except (NoWhisper, SafetensorError, json.JSONDecodeError) as error:
        sys.stderr.write(f"ValueError: whisper: {error}\n")
        return 1
    target.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, target / "model.safetensors", metadata={"dims": json.dumps(dims)})
    sys.stdout.write(f"{len(weights)} tensors of a Whisper read\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
