"""Stand-ins for TensorRT-LLM's programs. They take and refuse the options that the real ones do, read and write
real files of the real layout, and fail in the ways that the real ones fail. The product never imports them.
"""
