"""A Llama of two layers and random weights, with a real tokenizer: everything a model has, in 1 MB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.imported_later import ImportedLater

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = ImportedLater("torch")
    transformers = ImportedLater("transformers")

_TEXT = ("the farm builds an engine once and every node that fits it pulls the same bytes",)
_VOCABULARY = 300
END = "</s>"


def make(directory: Path, *, tied: bool = False) -> Path:
    """Write the model in the standard layout; returns `directory`."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,  # spreads the logits, so that the best token is a clear one
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=tied,
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _TEXT, trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=[END], initial_alphabet=alphabet)
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)
