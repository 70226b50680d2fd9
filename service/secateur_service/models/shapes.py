"""Names and shapes of a model's parameters, derived from its configuration without building it.

This is what transformers' classes would build, without torch, so that weights that do not match their configuration are
detected when a job is submitted. A test compares it with the classes themselves.
"""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures import Architecture, Shapes


def expected_shapes(config: Any, architecture: Architecture) -> Shapes:
    """The shape, out × in, of every parameter and stored buffer by its name; a tied head is left out.

    Names are those of transformers' model, with experts as separate linear layers (see `experts`).

    Args:
        config: transformers' configuration, as `read_configuration` returns it.
        architecture: its row.
    """
    # OPT projects a row of the embedding to the hidden size.
    width = getattr(config, "word_embed_proj_dim", None) or config.hidden_size
    found: Shapes = {f"{architecture.embedding}.weight": (config.vocab_size, width)}
    if not config.tie_word_embeddings:
        found[f"{architecture.head}.weight"] = (config.vocab_size, width)
    if architecture.biases_head(config.to_dict()):
        found[f"{architecture.head}.bias"] = (config.vocab_size,)
    found |= {f"{architecture.base_prefix}{name}": shape for name, shape in architecture.outer(config).items()}
    for index in range(config.num_hidden_layers):
        path = f"{architecture.blocks}.{index}"
        found |= {f"{path}.{name}": shape for name, shape in architecture.shapes(config, index).items()}
    return found
