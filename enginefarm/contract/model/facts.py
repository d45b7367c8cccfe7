"""Facts that a model's `config.json` states: enough to check a spec, without its weights.

Only the control plane and workers use this, and it is not in the wheel. It is in this package because `models` reads
the facts and `toolchains` checks specs against them, and those two do not import each other.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from enginefarm.contract.bounded import WITHOUT_NUL
from enginefarm.contract.portable import portable

# What is not bounded here would be refused later by the database, or by the canonical form of a key.
Count = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=WITHOUT_NUL)]
Settings = Annotated[dict[str, Any], AfterValidator(portable)]


class Stack(BaseModel):
    """The layers of an encoder, or of the decoder that attends to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_hidden_layers: Count | None = None
    num_attention_heads: Count | None = None
    intermediate_size: Count | None = None


class ModelFacts(BaseModel):
    """A fact is None where the config does not state it.

    The numbers are those of the text model where a model has several parts (text and vision), and those of the decoder
    for an encoder-decoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Name = Field(examples=["LlamaForCausalLM"])
    model_type: Name | None = None
    dtype: Name | None = Field(default=None, description="float32, float16 or bfloat16")
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
    rope_scaling: Settings | None = None
    quantization_config: Settings | None = None
    weight_bytes: Count = Field(description="size of the safetensors files that a conversion reads")
    has_safetensors: bool
    has_pickle: bool
    has_tokenizer: bool
    remote_code: bool = Field(description="loading it the usual way would run Python from the model")
    trusted: bool = Field(default=False, description="an administrator lets its code run and its pickles be loaded")
    lacks_tokenizer_json: bool = Field(
        default=False, exclude=True, description="has a tokenizer, in another form: at submit, in no job"
    )
    weight_dtypes: tuple[str, ...] = Field(
        default=(), exclude=True, description="of the tensors, as safetensors names them: at submit, in no job"
    )
    # The checks at submit read these. No job has them, so that workers of earlier versions read its facts.
    tie_word_embeddings: bool | None = Field(
        default=None, exclude=True, description="one matrix is both embedding and lm_head: at submit, in no job"
    )
    head_dim: Count | None = Field(
        default=None,
        exclude=True,
        description="where it is not hidden_size / num_attention_heads: at submit, in no job",
    )
    moe_intermediate_size: Count | None = Field(
        default=None, exclude=True, description="width of one expert where it has a name: at submit, in no job"
    )
    kv_lora_rank: Count | None = Field(
        default=None, exclude=True, description="of multi-head latent attention: at submit, in no job"
    )
    q_lora_rank: Count | None = Field(
        default=None, exclude=True, description="of multi-head latent attention: at submit, in no job"
    )
    image_tokens: Count | None = Field(
        default=None, exclude=True, description="embeddings of one image, of CLIP's towers: at submit, in no job"
    )
    beside: dict[str, dict[str, Any]] = Field(
        default={}, exclude=True, description="what second models say of themselves, by input: at submit, in no job"
    )
