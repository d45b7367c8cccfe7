"""Convert a Hugging Face checkpoint into one safetensors file of one dtype. Runs no model."""
