"""What share of all tokens the estimate lets reach each layer of a mixture of experts."""

import pytest

from secateur_service.models.opening import open_checkpoint
from secateur_service.sizing.operations import groups_of
from secateur_service.sizing.serving import cache_bytes
from support.models import build_model

# Experts that a token is routed to, of how many; the tiny models of other families have 2 of 4.
ROUTED = {
    "glm4_moe": (2, 6),
    "ernie4_5_moe": (3, 4),
    "cohere2_moe": (2, 8),
    "deepseek_v2": (3, 8),
    "deepseek_v3": (3, 8),
}
SHARED = {"qwen2_moe", "glm4_moe", "ernie4_5_moe", "cohere2_moe", "deepseek_v2", "deepseek_v3", "llama4_text"}


@pytest.mark.parametrize("name", [*ROUTED, "mixtral", "qwen2_moe", "olmoe", "granitemoe", "gpt_oss", "llama4_text"])
def test_experts_see_the_tokens_routed_to_them_and_shared_ones_all(name, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    chosen, count = ROUTED.get(name, (2, 4))
    shared = set()
    for group, layers in zip(groups_of(checkpoint, 2), checkpoint.inputs(2), strict=True):
        if ".experts." in layers[0]:
            assert (group.share, group.experts) == (chosen / count, count)
        else:
            assert (group.share, group.experts) == (1.0, 0)
            shared |= {layer for layer in layers if "shared_expert" in layer}
    assert len(shared) == (3 if name in SHARED else 0)


def test_latent_attention_keeps_what_keys_and_values_are_computed_from(tmp_path):
    build_model("deepseek_v3").save_pretrained(tmp_path)
    assert cache_bytes(open_checkpoint(tmp_path)) == 3 * (24 + 8) * 4
