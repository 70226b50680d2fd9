"""Models: where they come from, what they consist of, and how their tensors are streamed.

`architectures`, `safetensors` and `checkpoint` do not import torch; `tensors` and `streaming` do.
"""
