"""PyTorch AOTInductor: compiles a causal language model from Hugging Face for one CPU level or one kind of GPU.

Engines take batches and lengths within fixed limits and run only on the platform that they were compiled for, like
those of TensorRT-LLM, but any machine can build one in minutes.
"""

from toolchains.aoti.toolchain import Aoti

TOOLCHAIN = Aoti()
