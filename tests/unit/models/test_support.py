"""What is told of architectures, supported or not."""

import pytest

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.support import advice, nearest, support_of


def test_of_a_supported_type_all_is_told():
    found = support_of("qwen3_moe")
    assert (found.class_name, found.is_known, found.nearest) == ("Qwen3MoeForCausalLM", True, "")
    assert "mlp.experts.*.gate_proj, mlp.experts.*.up_proj" in found.layers
    assert found.excluded == ("mlp.gate.weight",)
    assert found.axes == ("vocabulary", "blocks", "kv_heads", "feed_forward")


@pytest.mark.parametrize(
    ("model_type", "like", "is_known"),
    [
        ("minimax", "mixtral", True),  # by its configuration
        ("cwm", "llama", True),
        ("lama", "llama", False),  # a misspelling
        ("qwen3-moe", "qwen3_moe", False),
        ("whatever", "", False),
        ("vit", "", True),  # nothing in common
    ],
)
def test_the_nearest_type_is_named(model_type, like, is_known):
    found = support_of(model_type)
    assert (found.is_known, found.class_name) == (is_known, "")
    assert found.nearest.startswith(like) if like else not found.nearest
    assert ("nearest" in advice(model_type)) == bool(like)


def test_every_type_is_nearest_to_itself():
    assert {nearest(model_type) for model_type in ARCHITECTURES} <= {*ARCHITECTURES}
