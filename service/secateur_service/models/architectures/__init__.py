"""What the decoder blocks of each supported architecture consist of: one row per `model_type` of transformers.

A row names the linear layers that are pruned, grouped by the input they share and in the order in which a block runs
them, so that statistics are gathered once per distinct input. Any other tensor of a block with two or more dimensions
must be listed as excluded; a model with an unlisted matrix is refused. The groups are verified while the first batch
runs. A row also says which shapes the configuration implies, without torch, so that a model that does not match its
configuration is refused when a job is submitted; tests compare this with transformers' classes.

    architecture   what a row consists of
    parts          groups and shapes that families share
    packing        parameters that are only a part of a stored tensor, or transposed there
    dense, later, wide   the rows of dense families
    mixtures, latent, stacked   those of mixtures of experts
    varied   families whose blocks differ in sizes
    hybrids   those of hybrids of attention and state
    recurrences   what layers with a state compute
    wrappers   multimodal models that a text model may lie in
    towers   shapes of what lies beside it
"""

from secateur_service.models.architectures import (
    dense,
    hybrids,
    latent,
    later,
    mixtures,
    stacked,
    varied,
    wide,
    wrappers,
)
from secateur_service.models.architectures.architecture import (
    MAX_BLOCKS,
    MAX_EXPERTS,
    Architecture,
    Config,
    Groups,
    Mixture,
    Packed,
    Shapes,
    Wrapper,
)
from secateur_service.models.architectures.packing import Part, part_of

__all__ = [
    "ARCHITECTURES",
    "MAX_BLOCKS",
    "MAX_EXPERTS",
    "ROWS",
    "WRAPPERS",
    "Architecture",
    "Config",
    "Groups",
    "Mixture",
    "Packed",
    "Part",
    "Shapes",
    "Wrapper",
    "part_of",
]

ARCHITECTURES: dict[str, Architecture] = {
    **dense.ARCHITECTURES,
    **later.ARCHITECTURES,
    **wide.ARCHITECTURES,
    **mixtures.ARCHITECTURES,
    **latent.ARCHITECTURES,
    **stacked.ARCHITECTURES,
    **varied.ARCHITECTURES,
    **hybrids.ARCHITECTURES,
}

WRAPPERS = wrappers.WRAPPERS

ROWS: dict[str, Architecture] = {**ARCHITECTURES, **wrappers.TEXT_MODELS}
"""The rows, and those of text models that occur in wrappers only."""
