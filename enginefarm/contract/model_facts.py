"""What a model says of itself in `config.json`: enough to check a spec against, without its weights."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True, ge=0)]


class Stack(BaseModel):
    """The layers of an encoder, or of the decoder that reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_hidden_layers: Count | None = None
    num_attention_heads: Count | None = None
    intermediate_size: Count | None = None


class ModelFacts(BaseModel):
    """None where the config does not say. Of a model with several parts, the text part's numbers; of an
    encoder-decoder, the decoder's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(min_length=1, examples=["LlamaForCausalLM"])
    model_type: str | None = None
    dtype: str | None = Field(default=None, description="float32, float16 or bfloat16")
    hidden_size: Count | None = None
    num_hidden_layers: Count | None = None
    num_attention_heads: Count | None = None
    num_key_value_heads: Count | None = None
    vocab_size: Count | None = None
    intermediate_size: Count | None = None
    max_position_embeddings: Count | None = None
    num_experts: Count | None = Field(default=None, description="None for a dense model")
    encoder: Stack | None = Field(default=None, description="None unless the model is an encoder-decoder")
    decoder: Stack | None = Field(default=None, description="None unless the model is an encoder-decoder")
    rope_scaling: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    weight_bytes: Count = Field(description="of the safetensors files that count")
    has_safetensors: bool
    has_pickle: bool
    has_tokenizer: bool
    remote_code: bool = Field(description="loading it the usual way would run Python from the model")
    trusted: bool = Field(default=False, description="an administrator lets its code run and its pickles be loaded")
    beside: dict[str, dict[str, Any]] = Field(
        default={}, exclude=True, description="what second models say of themselves, by input: at submit, in no job"
    )
