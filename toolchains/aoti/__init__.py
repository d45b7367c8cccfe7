"""PyTorch AOTInductor: compiles a Hugging Face causal language model for one CPU level or one GPU, and for
fixed limits. Real on any machine, minutes long, and bound to where it was made, like the big one."""

from toolchains.aoti.toolchain import Aoti

TOOLCHAIN = Aoti()
