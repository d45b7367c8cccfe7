"""TensorRT-LLM up to the releases that still have an engine backend."""

from toolchains.toolchain import Toolchain
from toolchains.trtllm.toolchain import TensorRTLLM

TOOLCHAIN: Toolchain = TensorRTLLM()
