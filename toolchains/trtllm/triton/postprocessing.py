"""Tokens to text, in Triton's Python backend. With streaming, each answer is a piece of the text."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder = json.loads(args["model_config"])["parameters"]["tokenizer_dir"]["string_value"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()  # requests × beams × tokens
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()  # requests × beams
        texts = [
            [
                str(self.tokenizer.decode(beam[:length].tolist(), skip_special_tokens=True)).encode()
                for beam, length in zip(beams, counts, strict=True)
            ]
            for beams, counts in zip(tokens, lengths, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("OUTPUT", np.array(texts, dtype=object))])
