"""What a configuration says of each block goes with it when others are removed."""

import itertools

import pytest

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.configuration import read_configuration
from secateur_service.models.depth import without_blocks
from secateur_service.models.opening import open_checkpoint
from support.configurations import mixtures
from support.models import build_model

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
