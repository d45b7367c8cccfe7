"""What a Triton server reads beside an engine: configurations to fill in, and two small models for its Python backend.

They were written for the tensor names and parameters that the `tensorrtllm` backend documents. No Triton server has run
them here: only their own logic is tested.
"""
