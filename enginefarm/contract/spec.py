"""The spec: what to build. Unknown fields are refused, aliases folded, numbers bounded, lengths made to agree.

A `BuildSpec` is what a caller wrote, with the defaults filled in that hold for every toolchain. The control plane fills
in what depends on the toolchain: its version, `dtype: auto`, the defaults of its options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from enginefarm.contract.errors import MAX_PROBLEMS, InvalidSpec, Problem, left_out
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.platform import PlatformSelector
from enginefarm.contract.portable import PortableValue

DTYPE_ALIASES = {
    "bf16": "bfloat16",
    **dict.fromkeys(("half", "fp16", "f16"), "float16"),
    **dict.fromkeys(("float", "fp32", "f32"), "float32"),
}
_QUANTIZATION_ALIASES = {"none": None, "w8a16": "int8_wo", "w4a16": "int4_wo"}
_EXACT = 2**53 - 1  # JSON readers disagree about larger integers, because many read them as doubles
_MAX_LENGTH = 1 << 24  # tokens; more than any model has, and small enough that products of lengths fit in 64 bits
_DEFAULT_LENGTH = 1024  # tokens


def _folded(aliases: dict[str, Any]) -> BeforeValidator:
    """Return a validator that replaces an alias by its canonical name; case and a leading `torch.` do not matter."""

    def fold(value: object) -> object:
        if not isinstance(value, str):
            return value
        name = value.lower().removeprefix("torch.")
        return aliases.get(name, name)

    return BeforeValidator(fold)


Dtype = Annotated[Literal["auto", "float32", "float16", "bfloat16"], _folded(DTYPE_ALIASES)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,31}$")]
Length = Annotated[int, Field(strict=True, ge=1, le=_MAX_LENGTH)]
OptionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class _Section(BaseModel):
    # A misspelled field must not be ignored: the caller would get another engine than the one that they described.
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolchainRef(_Section):
    """A compiler and its version."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] = Field(
        description="the compiler: trtllm, aoti, or a third party's", examples=["trtllm", "aoti"]
    )
    version: Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+-]{0,31}$")] | None = Field(
        default=None, description="null: the newest stable one that a live worker has", examples=["1.2.1"]
    )


class Precision(_Section):
    """Number formats of weights and activations, and of the KV cache."""

    dtype: Dtype = Field(default="auto", description="auto: the checkpoint's own; bf16, half, … are folded")
    quantization: Annotated[Word | None, _folded(_QUANTIZATION_ALIASES)] = Field(
        default=None, description="number format of the weights; null for none", examples=["fp8", "int4_awq"]
    )
    kv_cache: Annotated[Word | None, _folded({"none": None, "auto": None})] = Field(
        default=None, description="number format of the key/value cache; null for the dtype", examples=["fp8", "int8"]
    )


class Parallelism(_Section):
    """Ranks by which the model is divided."""

    # Strict, as all numbers of a spec: "2", 2.0 and true would otherwise be taken for a number.
    tp: Annotated[int, Field(strict=True, ge=1, le=1024, description="tensor parallel ranks")] = 1
    pp: Annotated[int, Field(strict=True, ge=1, le=1024, description="pipeline parallel ranks")] = 1
    cp: Annotated[int, Field(strict=True, ge=1, le=1024, description="context parallel ranks")] = 1

    @property
    def world_size(self) -> int:
        """The number of ranks, each a process with a GPU of its own."""
        return self.tp * self.pp * self.cp


class Limits(_Section):
    """Shape limits that the engine is compiled for, in sequences and tokens.

    `max_seq_len` is input and output together. A caller gives it or `max_output_len`; the other one is filled in.
    """

    max_batch_size: Annotated[int, Field(strict=True, ge=1, le=65536, description="sequences at once")] = 1
    max_input_len: Length = Field(default=_DEFAULT_LENGTH, description="tokens of one prompt")
    max_output_len: Length | None = Field(
        default=None, description="tokens of one answer; 1024 if max_seq_len is not given either"
    )
    max_seq_len: Length | None = Field(
        default=None, description="tokens of prompt and answer together: max_input_len + max_output_len"
    )
    max_beam_width: Annotated[
        int, Field(strict=True, ge=1, le=1024, description="beams of a beam search; 1 for none")
    ] = 1
    max_num_tokens: Length | None = Field(
        default=None, description="tokens of all sequences in one step; null for the release's default"
    )
    opt_num_tokens: Length | None = Field(
        default=None, description="the number of tokens that the builder tunes for; null for the release's default"
    )

    @model_validator(mode="wrap")
    @classmethod
    def agree_lengths(cls, document: object, validate: ModelWrapValidatorHandler[Limits]) -> Limits:
        """Fill in max_output_len or max_seq_len, whichever is missing; refuse two that disagree.

        Disagreeing lengths are reported together with every other problem of the limits, not instead of them.
        """
        if not isinstance(document, dict):
            return validate(document)
        input_len = document.get("max_input_len", _DEFAULT_LENGTH)
        output_len = document.get("max_output_len")
        seq_len = document.get("max_seq_len")
        for length in (input_len, output_len, seq_len):
            # `type(…) is int`: True is an instance of int, and Pydantic's strict mode refuses it.
            if length is not None and (type(length) is not int or not 1 <= length <= _MAX_LENGTH):
                return validate(document)  # a length is malformed, which the fields' own bounds report
        if input_len is None:
            return validate(document)  # null is no length; the field refuses it

        disagreement = _disagreement(input_len, output_len, seq_len)
        if disagreement is None:
            # Both lengths are filled in, so that it does not matter to the key which of them the caller wrote.
            is_default = seq_len is None and output_len is None
            if seq_len is not None:
                output_len = seq_len - input_len
            elif output_len is None:
                output_len = _DEFAULT_LENGTH
            limits = validate(document | {"max_output_len": output_len, "max_seq_len": input_len + output_len})
            if is_default:
                # They count as unset like every other default, so that the farm can tell the caller of it.
                limits.model_fields_set.difference_update(("max_output_len", "max_seq_len"))
            return limits

        # Pydantic stops at the first exception of a validator, so the fields' errors are collected by hand.
        errors: list[InitErrorDetails] = []
        try:
            validate(document)
        except ValidationError as error:
            errors = [
                {
                    "type": details["type"],
                    "loc": details["loc"],
                    "input": details["input"],
                    "ctx": details.get("ctx", {}),
                }
                for details in error.errors(include_url=False)
            ]
        errors.append({"type": disagreement, "loc": (), "input": document})
        raise ValidationError.from_exception_data(cls.__name__, errors)

    @property
    def seq_len(self) -> int:
        """`max_seq_len`, which every validated `Limits` has."""
        assert self.max_seq_len is not None, "the validator fills it in"
        return self.max_seq_len


def _disagreement(input_len: int, output_len: int | None, seq_len: int | None) -> PydanticCustomError | None:
    if seq_len is None:
        return None
    if output_len is None:
        if seq_len > input_len:
            return None
        return PydanticCustomError(
            "lengths_disagree",
            "max_seq_len {total} leaves no room for output after max_input_len {start}",
            {"total": seq_len, "start": input_len, "expected": f"max_seq_len > {input_len}"},
        )
    if input_len + output_len == seq_len:
        return None
    return PydanticCustomError(
        "lengths_disagree",
        "max_input_len {start} + max_output_len {out} = {sum}, but max_seq_len is {total}",
        {
            "start": input_len, "out": output_len, "total": seq_len, "sum": input_len + output_len,
            "expected": f"max_seq_len {input_len + output_len}, or only one of max_output_len and max_seq_len",
        },
    )  # fmt: skip


class BuildSpec(_Section):
    """The description of one engine, as a caller writes it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "hf:meta-llama/Meta-Llama-3-8B-Instruct@5f0b02c75b57c5855da9ae460ce51323ea669d8a",
                    "toolchain": {"name": "trtllm", "version": "1.2.1"},
                    "precision": {"dtype": "bfloat16"},
                    "limits": {"max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024},
                    "options": {"gemm_plugin": "auto"},
                    "platform": {"gpu": "NVIDIA H100 80GB HBM3", "sm": "90"},
                },
                {
                    "model": "file:/models/smollm2",
                    "toolchain": {"name": "aoti"},
                    "limits": {"max_input_len": 256, "max_output_len": 256},
                },
            ]
        },
    )

    model: Annotated[str, Field(max_length=1024)] = Field(
        description="hf:org/name[@revision], file:/absolute/path or s3://bucket/prefix",
        examples=["hf:meta-llama/Meta-Llama-3-8B-Instruct@5f0b02c75b57c5855da9ae460ce51323ea669d8a"],
    )
    toolchain: ToolchainRef
    precision: Precision = Precision()
    parallelism: Parallelism = Parallelism()
    limits: Limits = Field(default_factory=Limits)
    options: dict[OptionName, PortableValue] = Field(
        default_factory=dict,
        description="the toolchain's own options",
        max_length=256,
        json_schema_extra={"additionalProperties": False},  # Pydantic states the pattern of the names alone
    )
    # Not an option of the toolchain: its content enters the key of the checkpoint, not its path.
    calibration: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None,
        description="the data set that a quantization is calibrated on: file:/absolute/path or hf:org/name[@revision]",
        examples=["file:/data/cnn_dailymail", "hf:org/news@main"],
    )
    platform: PlatformSelector = PlatformSelector()

    @field_validator("model", "calibration")
    @classmethod
    def canonical_reference(cls, value: str | None) -> str | None:
        if value is None:
            return None
        # `file:/models/llama` and `file:/models/llama/` are one folder, and must make one key.
        return str(model_reference.parse(value))

    @classmethod
    def parse(cls, document: object) -> BuildSpec:
        """Return the spec that `document`, a parsed JSON object, describes.

        Raises:
            InvalidSpec: with every problem of the spec at once, each with a JSON pointer.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise InvalidSpec(problems_of(error.errors(include_url=False))) from None


_REMEDIES = {
    "extra_forbidden": "remove the field, or correct its spelling; a toolchain's own options go under /options",
    "missing": "add the field",
    "lengths_disagree": "give only one of max_output_len and max_seq_len",
}
_EXPECTED_TYPES = {
    # Pydantic's own words are for Python programmers; a spec's author writes JSON.
    "int_type": "a whole number",
    "string_type": "a string",
    "dict_type": "an object",
    "bool_type": "true or false",
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_MAX_ECHO = 200  # characters


def problems_of(errors: Sequence[ErrorDetails]) -> list[Problem]:
    """Convert Pydantic's errors into problems: pointer, value, what is expected, and what to do.

    The first MAX_PROBLEMS are converted, and one problem stands for all others: a body of a megabyte can have so many
    that converting them takes seconds.

    Values are repeated only when they are short and plain, because a problem goes to logs and terminals.
    """
    problems = []
    for details in errors[:MAX_PROBLEMS]:
        kind = details["type"]
        value = None
        if kind != "missing":  # for a missing field, Pydantic's input is the whole object around it
            value = details.get("input")
        pointer = ""
        for step in details["loc"]:
            # RFC 6901: '~' first, or the '~' of an escaped '/' would be escaped again.
            pointer += "/" + _without_surrogates(str(step)).replace("~", "~0").replace("/", "~1")
        # The most precise of what Pydantic tells: our own text, the bounds, the pattern, else the type.
        context = details.get("ctx", {})
        expected = _EXPECTED_TYPES.get(kind)
        bounds = []
        for name, sign in _BOUNDS.items():
            if name in context:
                bounds.append(f"{sign} {context[name]}")
        if "expected" in context:
            expected = str(context["expected"])
        elif bounds:
            expected = ", ".join(bounds)
        elif "pattern" in context:
            expected = f"a match of {context['pattern']}"
        problems.append(
            Problem(
                pointer=pointer,
                code=kind,
                detail=_detail(kind, details["msg"], value),
                value=_echo(value),
                expected=expected,
                remedy=_REMEDIES.get(kind),
            )
        )
    if len(errors) > MAX_PROBLEMS:
        problems.append(left_out(len(errors) - MAX_PROBLEMS))
    return problems


def _detail(kind: str, message: str, value: object) -> str:
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "missing":
        return "required field is missing"
    message = message.removeprefix("Value error, ")
    if isinstance(value, bool | int | float):
        return f"{message}, got {str(_echo(value)).lower()}"  # true and false, as JSON spells them
    if isinstance(value, str):
        return f"{message}, got {_echo(value)!r}"
    return message


def _echo(value: object) -> object:
    """Return `value` in a form that every JSON reader takes, and never long."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) <= _EXACT:  # false for NaN, which JSON cannot state
        return value
    # Not its content: a problem goes to logs and terminals, and an object can be as large as the request.
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = _without_surrogates(str(value))
    if len(text) > _MAX_ECHO:
        return text[:_MAX_ECHO] + "…"
    return text


def _without_surrogates(text: str) -> str:
    """Escape lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
