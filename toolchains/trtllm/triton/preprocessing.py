"""Text to tokens, in Triton's Python backend. Needs transformers and the tokenizer beside the engine.

For an encoder-decoder also the token that each output starts with, which the decoder's engine names.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        folder = parameters["tokenizer_dir"]["string_value"]
        self.start = None
        if "decoder_dir" in parameters:
            decoder = Path(parameters["decoder_dir"]["string_value"]) / "config.json"
            self.start = json.loads(decoder.read_bytes())["pretrained_config"]["decoder_start_token_id"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.end = self.tokenizer.eos_token_id
        self.pad = self.end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        texts = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy().reshape(-1)
        wanted = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
        prompts = [self.tokenizer.encode(text.decode()) for text in texts]
        longest = max(len(prompt) for prompt in prompts)
        padded = [prompt + [self.pad] * (longest - len(prompt)) for prompt in prompts]
        outputs = {
            "INPUT_ID": padded,
            "REQUEST_INPUT_LEN": [[len(prompt)] for prompt in prompts],
            "REQUEST_OUTPUT_LEN": wanted.reshape(-1, 1),
            "OUT_END_ID": [[self.end]] * len(prompts),
            "OUT_PAD_ID": [[self.pad]] * len(prompts),
        }
        if self.start is not None:
            outputs["DECODER_INPUT_ID"] = [[self.start]] * len(prompts)
            outputs["REQUEST_DECODER_INPUT_LEN"] = [[1]] * len(prompts)
        tensors = [pb_utils.Tensor(name, np.array(value, dtype=np.int32)) for name, value in outputs.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)
