"""The minimum number of floating-point operations to prune one block, and the minimum time they take.

With T calibration tokens, context s, hidden size d, key/value width k and intermediate width f:

- a causal forward pass is 2·T·(2d² + 2dk + 3df) + 2·T·s·d; order `block` runs two, the first without the block's last
  product; the other orders run one;
- the second moments of the distinct inputs are T·(3d² + f²), one triangle;
- a factorisation is ⅓·n³ per distinct input of n features, SparseGPT's sweep is m·n² per layer m×n, and masked
  conjugate gradients are 12 products of 2·m·n².

Products of 16-bit numbers run on tensor cores, and so do those of the ten steps of conjugate gradients, in TF32. Their
two others, factorisation and sweep are in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.generated import Shape
from secateur_service.pruning.budget import CG_STEPS
from secateur_service.pruning.methods import Moments, Recipe


@dataclass(frozen=True)
class Rates:
    """A device's peak rates, in floating-point operations per second."""

    products: float
    tf32: float
    float32: float


@dataclass(frozen=True)
class Floor:
    """Operations per block: in products of the model's number type, in TF32, and in float32."""

    product_flops: float
    tf32_flops: float = 0.0
    float32_flops: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """The time per block at these rates."""
        return self.product_flops / rates.products + self.tf32_flops / rates.tf32 + self.float32_flops / rates.float32


def block_floor(shape: Shape, recipe: Recipe, order: str, sequences: int, length: int) -> Floor:
    """The operations of a block that is neither the first nor the last."""
    tokens, last = sequences * length, 2.0 * sequences * length * shape.hidden * shape.intermediate
    forward = 2.0 * tokens * sum(m * n for m, n in shape.layers) + 2.0 * tokens * length * shape.hidden
    products = 2 * forward - last if order == "block" else forward
    if recipe.moments < Moments.FULL:
        return Floor(products)
    products += tokens * sum(float(n) ** 2 for _, n in shape.layers)
    tf32 = float32 = 0.0
    if "obs" in (recipe.score, recipe.update):
        float32 += sum(float(n) ** 3 / 3 + float(m) * n**2 for m, n in shape.layers)
    if recipe.update == "cg":
        each = sum(2.0 * m * n**2 for m, n in shape.layers)
        tf32, float32 = CG_STEPS * each, float32 + 2 * each
    return Floor(products, tf32, float32)
