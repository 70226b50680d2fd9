"""Copies a block's tensors from an accelerator to the host while the next block computes."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur_service.models.safetensors import OutputTensor
from secateur_service.models.tensors import host_memory, output_tensor


class Outgoing:
    """Tensors on their way from a device to a file.

    On CUDA each is copied into page-locked memory on a stream of its own, so that neither the caller nor what the
    device computes next waits for it; writing the tensor does. Elsewhere it is copied at once, if at all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, name: str, tensor: Tensor) -> OutputTensor:
        """The tensor as it is now, for writing; the caller may free it, but not change it."""
        if self._stream is None:
            return output_tensor(name, tensor)
        tensor = tensor.contiguous()
        host = host_memory(tensor.nbytes, pinned=True).view(tensor.dtype).view(tensor.shape)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
            copied = self._stream.record_event()
        tensor.record_stream(self._stream)  # its memory is free for others only after the copy
        return output_tensor(name, host, copied.synchronize)
