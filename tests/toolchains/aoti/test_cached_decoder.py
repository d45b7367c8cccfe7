"""The graph that is compiled computes, uncompiled, the same logits as the model of each family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.imported_later import ImportedLater
from toolchains.aoti.programs.aoti_engine.build.engine_limits import EngineLimits
from toolchains.aoti.programs.aoti_engine.report import Failure

if TYPE_CHECKING:
    import torch
    import transformers

    from toolchains.aoti.programs.aoti_engine.build import cached_decoder, eager
else:
    torch = ImportedLater("torch")
    transformers = ImportedLater("transformers")
    cached_decoder = ImportedLater("toolchains.aoti.programs.aoti_engine.build.cached_decoder")
    eager = ImportedLater("toolchains.aoti.programs.aoti_engine.build.eager")

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


def random_model(family: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES | settings)
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "gpt_neox"])
def test_a_prompt_has_the_same_logits_in_a_ragged_batch_as_alone(family: str) -> None:
    model = random_model(family)
    decoder = cached_decoder.CachedDecoder(model, eager.cache_shapes(model), EngineLimits(3, 16, 24))
    generator = torch.Generator().manual_seed(0)
    for lengths in ([9, 4], [3], [5, 7, 1]):  # later batches meet the cache of the first
        texts = [torch.randint(1, 101, (length + 3,), generator=generator) for length in lengths]
        expected_logits = model_logits(model, texts)
        for actual, expected in zip(engine_logits(decoder, texts, lengths), expected_logits, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def engine_logits(
    decoder: cached_decoder.CachedDecoder, texts: list[torch.Tensor], lengths: list[int]
) -> list[torch.Tensor]:
    """For each text, the logits after its prompt and after each of the three tokens that follow."""
    longest = max(lengths)
    pad = torch.tensor([longest - length for length in lengths])
    prompts = [torch.cat([torch.zeros(longest - n).long(), text[:n]]) for text, n in zip(texts, lengths, strict=True)]
    steps = [decoder(torch.stack(prompts), torch.tensor([0]), pad)]
    for i in range(3):
        tokens = torch.stack([text[n + i, None] for text, n in zip(texts, lengths, strict=True)])
        steps.append(decoder(tokens, torch.tensor([longest + i]), pad))
    return list(torch.stack(steps, dim=1))


def model_logits(model: Any, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    return [model(text[None], use_cache=False).logits[0, -4:] for text in texts]


def test_a_model_without_a_key_value_cache_is_refused() -> None:
    with pytest.raises(Failure, match="other than keys and values"):
        eager.cache_shapes(random_model("mamba", state_size=4))
