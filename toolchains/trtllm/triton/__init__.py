"""The model repository of a Triton server: configuration templates, and two small models for its Python backend.

They use the tensor names and parameters that the `tensorrtllm` backend documents. Tests cover only their own logic; no
Triton server has run them here. Serving nodes get these files as they are: their text is part of an engine's layout.
"""
