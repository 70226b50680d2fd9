"""Mixtures of experts as linear layers, one set per expert, as checkpoints store them.

transformers keeps the experts of a block as two three-dimensional parameters, under names that no checkpoint has, and
runs them with grouped matrix products. Statistics and pruning need the tokens that each expert sees and a matrix for
each of its projections, so the module is replaced by one that has both. Only this file depends on the structure of
transformers' module: its parameters `gate_up_proj` E×2f×d (gate first) and `down_proj` E×d×f, its activation `act_fn`,
and the arguments of its forward pass.

Shapes: T tokens, d hidden size, f intermediate size, E experts, k experts per token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """Experts that can be hooked and loaded one by one; computes what the fused module computes.

    Args:
        fused: the module to replace.
        names: names of the gate, up and down projection.
    """

    def __init__(self, fused: Any, names: tuple[str, str, str]) -> None:
        super().__init__()
        self.num_experts, width, hidden = fused.gate_up_proj.shape
        self.act_fn = fused.act_fn
        device, dtype = fused.gate_up_proj.device, fused.gate_up_proj.dtype
        gate, up, down = self._names = names
        sizes = {gate: (hidden, width // 2), up: (hidden, width // 2), down: (width // 2, hidden)}
        for number in range(self.num_experts):
            layers = {
                name: nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype)
                for name, (inputs, outputs) in sizes.items()
            }
            self.add_module(str(number), nn.ModuleDict(layers))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Run every expert on the tokens routed to it, even if there are none.

        Args:
            hidden_states: T×d.
            top_k_index: experts of each token, T×k; no expert occurs twice for a token.
            top_k_weights: their weights, T×k.

        Returns:
            The weighted sums of the experts' outputs, T×d.
        """
        # All T·k choices sorted by expert, then by token; a single transfer to the host gives the split points.
        chosen = top_k_index.flatten()
        counts = chosen.bincount(minlength=self.num_experts).tolist()
        output = torch.zeros_like(hidden_states)
        for number, choices in enumerate(chosen.argsort(stable=True).split(counts)):
            gate, up, down = (self.get_submodule(f"{number}.{name}") for name in self._names)
            tokens = choices // top_k_index.shape[1]
            inputs = hidden_states[tokens]
            results = down(self.act_fn(gate(inputs)) * up(inputs))
            output.index_add_(0, tokens, (results * top_k_weights.flatten()[choices, None]).to(output.dtype))
        return output


def replace_experts(blocks: Iterable[Any], names: tuple[str, str, str]) -> None:
    """Replace the fused experts of every block that has any."""
    for block in blocks:
        if hasattr(block.mlp, "experts"):
            block.mlp.experts = Experts(block.mlp.experts, names)
