"""Doubles of TensorRT-LLM's programs, of NVML, and of a third party's toolchain. The product never imports them.

The programs accept and refuse the options of the real ones, read and write real files of the real layout, and fail with
the messages of the real ones. They compute nothing: an engine is a hash of its inputs, and no GPU is used.
"""
