"""Mixtures of experts as linear layers, one set per expert.

transformers keeps the experts of a block as three-dimensional parameters, mostly under names that no checkpoint has,
and runs them with grouped matrix products. Statistics and pruning need the tokens that each expert sees and a matrix
for each of its projections, so the module is replaced by one that has both. Only this file depends on the structure of
transformers' modules, those decorated by `use_experts_implementation`: their parameters `gate_up_proj` (E×2f×d, or
E×d×2f if `is_transposed`) or `up_proj` where there is no gate, and `down_proj`, with `has_bias` also biases; what
`_apply_gate` makes of gate and up, which alternate unless `is_concatenated`; and the arguments of the forward pass.
Llama 4's is none of those: see `ScaledExperts`.

Shapes: T tokens, d hidden size, f intermediate size, E experts, k experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur_service.models.architectures import Mixture


class Experts(nn.Module):
    """Experts that can be hooked and loaded one by one; computes what the fused module computes.

    Args:
        fused: the module to replace.
        layers: names of the gate, up and down projection, or of the latter two.
    """

    def __init__(self, fused: Any, layers: tuple[str, ...]) -> None:
        super().__init__()
        transposed = getattr(fused, "is_transposed", isinstance(self, ScaledExperts))
        matrix = fused.down_proj.mT if transposed else fused.down_proj
        self.num_experts, hidden, inner = matrix.shape
        biased = getattr(fused, "has_bias", False)
        *self._inputs, self._output = layers
        self._activate = _activation(fused)
        sizes = {**dict.fromkeys(self._inputs, (hidden, inner)), self._output: (inner, hidden)}
        for number in range(self.num_experts):
            linears = {
                name: nn.Linear(inputs, outputs, bias=biased, device=matrix.device, dtype=matrix.dtype)
                for name, (inputs, outputs) in sizes.items()
            }
            self.add_module(str(number), nn.ModuleDict(linears))

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
            tokens = choices // top_k_index.shape[1]
            results = self.run(number, hidden_states[tokens])
            output.index_add_(0, tokens, (results * top_k_weights.flatten()[choices, None]).to(output.dtype))
        return output

    def run(self, number: int, inputs: Tensor) -> Tensor:
        """The output of one expert for its inputs."""
        layers: Any = self.get_submodule(str(number))
        output: Tensor = layers[self._output](self._activate(*(layers[name](inputs) for name in self._inputs)))
        return output


def _activation(fused: Any) -> Callable[..., Tensor]:
    """What lies between the projections of an expert, as a function of gate and up, or of up alone."""
    act_fn: Any = getattr(fused, "act_fn", None)
    if not getattr(fused, "has_gate", True):
        return act_fn
    apply_gate = getattr(type(fused), "_apply_gate", None)
    if apply_gate is None or apply_gate.__module__ != type(fused).__module__:  # transformers' default
        return lambda gate, up: act_fn(gate) * up
    alternate = not fused.is_concatenated
    return lambda gate, up: fused._apply_gate(
        torch.stack((gate, up), -1).flatten(-2) if alternate else torch.cat((gate, up), -1)
    )


class ScaledExperts(Experts):
    """The same where the block gives every expert all tokens, scaled by the router: by 0 if routed elsewhere.

    So it is in Llama 4, whose experts have no biases: what they compute of zeros is zero, and can be left out.
    """

    def forward(self, scaled: Tensor) -> Tensor:  # type: ignore[override]
        """Run every expert on the tokens routed to it, even if there are none.

        Args:
            scaled: (E·T)×d: all tokens for the first expert, then for the second, and so on.

        Returns:
            The experts' outputs, (E·T)×d.
        """
        of_experts = scaled.view(self.num_experts, -1, scaled.shape[-1])
        output = torch.zeros_like(of_experts)
        for number, inputs in enumerate(of_experts):
            tokens = inputs.any(1).nonzero().squeeze(1)
            output[number].index_copy_(0, tokens, self.run(number, inputs[tokens]))
        return output.flatten(0, 1)


def replace_experts(blocks: Iterable[Any], mixture: Mixture) -> None:
    """Replace the fused experts of every block that has any."""
    parent, _, name = mixture.path.rpartition(".")
    for block in blocks:
        try:
            owner = block.get_submodule(parent)
        except AttributeError:
            continue
        if hasattr(owner, name):
            fused = getattr(owner, name)
            kind = ScaledExperts if mixture.scaled else Experts
            setattr(owner, name, kind(fused, mixture.layers))
