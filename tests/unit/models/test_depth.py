"""What a configuration says of each block goes with it when others are removed."""

import itertools
import json

import pytest

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.configuration import read_configuration
from secateur_service.models.depth import ends_well, removable, without_blocks
from secateur_service.models.opening import open_checkpoint
from support.configurations import mixtures, varied
from support.models import build_model, config_of

# What decides about a block besides its parameters, by its number.
BESIDES = ("layer_types", "no_rope_layers", "mlp_layer_types")


@pytest.mark.parametrize("name", mixtures.CONFIGS)
def test_blocks_of_mixtures_stay_what_they_are_whichever_others_go(name, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    checkpoint, model_type = open_checkpoint(tmp_path), name.partition(" ")[0]
    row, before = ARCHITECTURES[model_type], read_configuration(checkpoint.config, model_type)
    for kept in [*itertools.combinations(range(3), 2), *itertools.combinations(range(3), 1)]:
        after = read_configuration(without_blocks(checkpoint, checkpoint.config, kept), model_type)
        assert after.num_hidden_layers == len(kept)
        for place, index in enumerate(kept):
            assert row.shapes(after, place) == row.shapes(before, index)
            for key in BESIDES:
                if getattr(before, key, None) is not None:
                    assert getattr(after, key)[place] == getattr(before, key)[index]


@pytest.mark.parametrize("spelled", [True, False])
@pytest.mark.parametrize("name", varied.CONFIGS)
def test_blocks_keep_sizes_of_their_own_and_the_last_is_of_its_kind(name, spelled, tmp_path):
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    build_model(name, layer_types=kinds).save_pretrained(tmp_path)
    if not spelled:  # as on the hub
        config = json.loads((tmp_path / "config.json").read_text())
        del config["per_layer_config"]
        config |= {key: config_of(name)[key] for key in ("global_head_dim", "num_global_key_value_heads")}
        (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint, model_type = open_checkpoint(tmp_path), name.partition(" ")[0]
    row, before = ARCHITECTURES[model_type], read_configuration(checkpoint.config, model_type)
    assert removable(checkpoint, (0, 1, 2)) == [0, 1]  # transformers would make another kind of block 1
    assert removable(checkpoint, (0, 2)) == [0, 2]
    for kept in [(0, 1), (1,)]:
        assert not ends_well(checkpoint, kept)
    for kept in [(0, 2), (1, 2), (0,), (2,)]:
        after = read_configuration(without_blocks(checkpoint, checkpoint.config, kept), model_type)
        assert after.layer_types == [kinds[index] for index in kept]
        for place, index in enumerate(kept):
            assert row.shapes(after, place) == row.shapes(before, index)
