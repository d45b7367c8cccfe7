"""What to build. Unknown fields are refused, aliases folded, numbers bounded, lengths made to agree.

A `BuildSpec` is what a caller wrote, with the defaults that hold for every toolchain filled in. What a
toolchain adds (its version, `dtype: auto`, its options' defaults) is filled in by the control plane.
"""

from __future__ import annotations

from collections.abc import Iterable
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

from enginefarm.contract import model_reference
from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.contract.platform import PlatformSelector
from enginefarm.contract.portable import PortableValue

DTYPE_ALIASES = {
    "bf16": "bfloat16",
    **dict.fromkeys(("half", "fp16", "f16"), "float16"),
    **dict.fromkeys(("float", "fp32", "f32"), "float32"),
}
_QUANTIZATION_ALIASES = {"none": None, "w8a16": "int8_wo", "w4a16": "int4_wo"}
_EXACT = 2**53 - 1  # beyond it, readers of JSON disagree about a number
_MAX_LENGTH = 1 << 24  # tokens; beyond any model, and far from overflowing what is computed from it


def _folded(aliases: dict[str, Any]) -> BeforeValidator:
    def fold(value: object) -> object:
        if isinstance(value, str):
            return aliases.get(value.lower().removeprefix("torch."), value.lower().removeprefix("torch."))
        return value

    return BeforeValidator(fold)


Dtype = Annotated[Literal["auto", "float32", "float16", "bfloat16"], _folded(DTYPE_ALIASES)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,31}$")]
Length = Annotated[int, Field(strict=True, ge=1, le=_MAX_LENGTH)]
OptionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolchainRef(_Part):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] = Field(examples=["trtllm", "aoti"])
    version: Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+-]{0,31}$")] | None = Field(
        default=None, description="null: the newest that a live worker has", examples=["1.2.1"]
    )


class Precision(_Part):
    dtype: Dtype = Field(default="auto", description="auto: the checkpoint's own; bf16, half, … are folded")
    quantization: Annotated[Word | None, _folded(_QUANTIZATION_ALIASES)] = None
    kv_cache: Annotated[Word | None, _folded({"none": None, "auto": None})] = None


class Parallelism(_Part):
    tp: Annotated[int, Field(strict=True, ge=1, le=1024, description="tensor parallel ranks")] = 1
    pp: Annotated[int, Field(strict=True, ge=1, le=1024, description="pipeline parallel ranks")] = 1
    cp: Annotated[int, Field(strict=True, ge=1, le=1024, description="context parallel ranks")] = 1

    @property
    def world_size(self) -> int:
        return self.tp * self.pp * self.cp


class Limits(_Part):
    """Shape limits in sequences and tokens. `max_seq_len` is input and output together."""

    max_batch_size: Annotated[int, Field(strict=True, ge=1, le=65536)] = 1
    max_input_len: Length = 1024
    max_output_len: Length | None = Field(default=None, description="1024 if max_seq_len is not given either")
    max_seq_len: Length | None = Field(default=None, description="max_input_len + max_output_len")
    max_beam_width: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    max_num_tokens: Length | None = None
    opt_num_tokens: Length | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _agreeing_lengths(cls, data: object, validate: ModelWrapValidatorHandler[Limits]) -> Limits:
        """Fill in whichever of max_output_len and max_seq_len is missing; refuse two that disagree, beside whatever
        else is wrong."""
        lengths = _lengths(data)
        if not isinstance(data, dict) or lengths is None:
            return validate(data)  # the fields' own bounds say what is wrong
        start, out, total = lengths
        if (clash := _clash(start, out, total)) is None:
            out = out if out is not None else 1024 if total is None else total - start
            return validate(data | {"max_output_len": out, "max_seq_len": start + out})
        found: list[InitErrorDetails] = [{"type": clash, "loc": (), "input": data}]
        try:
            validate(data)
        except ValidationError as error:
            found = [*map(_as_found, error.errors(include_url=False)), *found]
        raise ValidationError.from_exception_data(cls.__name__, found)

    @property
    def seq_len(self) -> int:
        assert self.max_seq_len is not None, "filled in by the validator"
        return self.max_seq_len


def _lengths(data: object) -> tuple[int, int | None, int | None] | None:
    """max_input_len, max_output_len and max_seq_len as written, if each is a length at all."""
    if not isinstance(data, dict):
        return None
    start, out, total = data.get("max_input_len", 1024), data.get("max_output_len"), data.get("max_seq_len")
    if start is None or any(
        type(n) is not int or not 1 <= n <= _MAX_LENGTH for n in (start, out, total) if n is not None
    ):
        return None
    return start, out, total


def _clash(start: int, out: int | None, total: int | None) -> PydanticCustomError | None:
    if total is None or (out is None and total > start) or (out is not None and start + out == total):
        return None
    if out is None:
        return PydanticCustomError(
            "lengths_disagree",
            "max_seq_len {total} leaves no room for output after max_input_len {start}",
            {"total": total, "start": start, "expected": f"max_seq_len > {start}"},
        )
    return PydanticCustomError(
        "lengths_disagree",
        "max_input_len {start} + max_output_len {out} = {sum}, but max_seq_len is {total}",
        {
            "start": start, "out": out, "total": total, "sum": start + out,
            "expected": f"max_seq_len {start + out}, or only one of max_output_len and max_seq_len",
        },
    )  # fmt: skip


def _as_found(details: ErrorDetails) -> InitErrorDetails:
    """A finding in the form in which it can be raised again."""
    return {
        "type": details["type"], "loc": details["loc"], "input": details["input"], "ctx": details.get("ctx", {}),
    }  # fmt: skip


class BuildSpec(_Part):
    """One engine, asked for."""

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
        default_factory=dict, description="the toolchain's own options", max_length=256
    )
    calibration: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None,
        description="the data set that a quantisation is calibrated on: a folder, as file:/absolute/path, or of a hub",
        examples=["file:/data/cnn_dailymail", "hf:org/news@main"],
    )
    platform: PlatformSelector = PlatformSelector()

    @field_validator("model", "calibration")
    @classmethod
    def _known_form(cls, value: str | None) -> str | None:
        return None if value is None else str(model_reference.parse(value))

    @classmethod
    def parse(cls, data: object) -> BuildSpec:
        """Validate `data` (a JSON object).

        Raises:
            InvalidSpec: with every problem of the spec, each with a JSON pointer.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidSpec(problems_of(error.errors(include_url=False))) from None


def problems_of(errors: Iterable[ErrorDetails]) -> list[Problem]:
    """Pydantic's findings in the farm's words. Values are echoed only when short and plain."""
    return [_problem(details) for details in errors]


def _problem(details: ErrorDetails) -> Problem:
    pointer = "".join(f"/{_escaped(part)}" for part in details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    given = details.get("input")
    if kind == "missing":
        given = None
    return Problem(
        pointer=pointer,
        code=kind,
        detail=_detail(kind, details["msg"], given),
        value=_short(given),
        expected=_expected(kind, context),
        remedy=_REMEDIES.get(kind),
    )


_REMEDIES = {
    "extra_forbidden": "remove the field, or correct its spelling; a toolchain's own options go under /options",
    "missing": "add the field",
    "lengths_disagree": "give only one of max_output_len and max_seq_len",
}


def _detail(kind: str, message: str, given: object) -> str:
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "missing":
        return "required field is missing"
    message = message.removeprefix("Value error, ")
    if isinstance(given, bool | int | float):
        return f"{message}, got {str(_short(given)).lower()}"
    return f"{message}, got {_short(given)!r}" if isinstance(given, str) else message


def _expected(kind: str, context: dict[str, Any]) -> str | None:
    if "expected" in context:
        return str(context["expected"])
    bounds = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    if found := [f"{sign} {context[name]}" for name, sign in bounds.items() if name in context]:
        return ", ".join(found)
    if "pattern" in context:
        return f"a match of {context['pattern']}"
    return {
        "int_type": "a whole number",
        "string_type": "a string",
        "dict_type": "an object",
        "bool_type": "true or false",
    }.get(kind)


def _short(value: object) -> object:
    """`value` as it can be echoed: JSON that every reader takes, and never long."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) <= _EXACT:  # false for NaN
        return value
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = _whole(str(value))
    return text if len(text) <= 200 else text[:200] + "…"


def _whole(text: str) -> str:
    """Without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def _escaped(part: object) -> str:
    return _whole(str(part)).replace("~", "~0").replace("/", "~1")
