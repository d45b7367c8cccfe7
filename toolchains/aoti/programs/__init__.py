"""Programs that import torch: the worker and the loader run them by path, nothing imports them."""
