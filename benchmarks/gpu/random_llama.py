"""A Llama with random weights, of any size: `python -m benchmarks.gpu.random_llama DIR LAYERS HIDDEN`.

For machines that reach no hub. The tokenizer is byte-level, so that any text is a prompt.
"""

from __future__ import annotations

import sys
from pathlib import Path


def make(directory: Path, *, layers: int, hidden: int) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(20)  # the same weights in each run: their engines and tokens can be compared
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,  # Llama's ratio, in multiples of a head
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=31999,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))


if __name__ == "__main__":
    make(Path(sys.argv[1]), layers=int(sys.argv[2]), hidden=int(sys.argv[3]))
