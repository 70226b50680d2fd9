"""Models: where they come from, what they are made of, and how their tensors are streamed.

`reference`, `architectures`, `safetensors` and `checkpoint` do not import torch; `tensors` and `streaming` do.
"""
