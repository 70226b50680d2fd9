"""The table of architectures against transformers."""

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from secateur_service.models.architectures import ARCHITECTURES
from support.models import CONFIGS


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_each_row_says_what_transformers_says(model_type):
    row = ARCHITECTURES[model_type]
    assert row.class_name == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    assert row.tied == CONFIG_MAPPING[model_type]().tie_word_embeddings


def test_every_architecture_is_tested():
    assert {name.partition(" ")[0] for name in CONFIGS} == set(ARCHITECTURES)
