import json
import math
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from secateur_service.evaluation.report import Report, report_schema, schema_bytes
from secateur_service.evaluation.verdicts import MIN_SCORED_TOKENS
from support.reports import Block, Layer, blocks, evaluation, kinds, make_report

SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"


def test_the_figures_follow_their_definitions():
    entry = make_report(evaluation=[evaluation("de", 1.25, tokens=1000, dense=6.0)]).evaluation[0]
    assert entry.dense_perplexity == pytest.approx(6.0)
    assert entry.pruned_perplexity == pytest.approx(7.5)
    assert entry.perplexity_ratio == pytest.approx(1.25)
    assert entry.dense_bits_per_byte == pytest.approx(math.log2(6.0) / 2)
    assert entry.pruned_bits_per_byte == pytest.approx(math.log2(7.5) / 2)
    assert (entry.windows, entry.tokens, entry.bytes) == (40, 1000, 2000)


def test_sparsity_is_counted_exactly_per_layer_block_and_model():
    report = make_report(
        blocks=[
            Block(0, (Layer("a.0.x", (2, 5), 3), Layer("a.0.y", (2, 15), 15))),
            Block(1, (Layer("a.1.x", (2, 5), 5),)),
        ]
    )
    assert [layer.sparsity for layer in report.blocks[0].layers] == [0.3, 0.5]
    assert [block.sparsity for block in report.blocks] == [0.45, 0.5]
    sparsity = report.sparsity
    assert (sparsity.zeros, sparsity.weights) == (23, 50)
    assert sparsity.pruned_layers == 0.46
    assert sparsity.all_parameters == 23 / 4000


def test_a_language_is_in_the_mix_only_with_a_positive_weight():
    report = make_report(mix={"de": 1.0, "en": 0.0}, ratios={"de": 1.1, "en": 1.1, "es": 1.1})
    assert [entry.in_mix for entry in report.evaluation] == [True, False, False]


def test_bytes_per_token_tell_how_the_tokenizer_serves_a_language():
    assert make_report().calibration[0].bytes_per_token == 3.0


def test_the_same_figures_give_the_same_bytes_whatever_the_order_of_the_blocks():
    assert make_report().to_bytes() == make_report(blocks=reversed(blocks())).to_bytes()


def test_the_report_is_read_back_equal():
    report = make_report()
    assert Report.model_validate_json(report.to_bytes()) == report


def test_a_loss_beyond_all_measure_is_still_a_number_that_json_can_hold():
    report = make_report(evaluation=[evaluation("de", 1.0), evaluation("en", math.exp(645), dense=math.exp(60))])
    assert math.isfinite(json.loads(report.to_bytes())["evaluation"][1]["pruned_perplexity"])


def test_a_figure_that_is_not_finite_is_refused():
    with pytest.raises(ValidationError):
        make_report(blocks=[Block(0, (Layer("a.0.x", (2, 5), 3),), {"de": math.nan})])


def test_a_report_is_valid_against_the_published_schema():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    document = json.loads(make_report(blocks=blocks(notes=("damping raised",))).to_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    del document["sparsity"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_the_published_schema_has_not_drifted():
    message = "run: python -m secateur_service.evaluation.report > docs/report.schema.json"
    assert SCHEMA.read_bytes() == schema_bytes(), message
    assert report_schema()["$schema"].endswith("2020-12/schema")


def test_a_language_far_above_the_others_is_left_behind():
    assert ("LANGUAGE_LEFT_BEHIND", "es") in kinds(make_report(ratios={"de": 1.1, "en": 1.1, "es": 1.1 * 1.2 + 1e-9}))
    assert not any(kind == "LANGUAGE_LEFT_BEHIND" for kind, _ in kinds(make_report(ratios={"de": 1.1, "es": 1.31})))


def test_a_language_alone_cannot_be_left_behind():
    assert kinds(make_report(ratios={"de": 3.0})) == set()


def test_the_remedy_for_a_language_left_behind_depends_on_the_mix():
    messages = {v.language: v.message for v in make_report(ratios={"de": 2.0, "en": 1.0, "uk": 1.0}).verdicts}
    assert "raise its weight" in messages["de"]
    messages = {v.language: v.message for v in make_report().verdicts if v.kind == "LANGUAGE_LEFT_BEHIND"}
    assert "add it to the calibration mix" in messages["es"]


def test_a_language_ten_times_as_perplexing_is_lost():
    assert ("LANGUAGE_LOST", "es") in kinds(make_report(ratios={"de": 1.1, "es": 10.1}))
    assert ("LANGUAGE_LOST", "es") not in kinds(make_report(ratios={"de": 1.1, "es": 9.9}))


def test_a_language_outside_the_mix_is_pointed_out():
    assert {language for kind, language in kinds(make_report()) if kind == "NOT_CALIBRATED"} == {"es"}


def test_a_small_sample_is_pointed_out():
    assert ("SAMPLE_TOO_SMALL", "de") in kinds(make_report(tokens=MIN_SCORED_TOKENS - 1))
    assert ("SAMPLE_TOO_SMALL", "de") not in kinds(make_report(tokens=MIN_SCORED_TOKENS))


def test_too_few_calibration_tokens_matter_only_to_methods_that_invert_second_moments():
    assert ("FEW_CALIBRATION_TOKENS", "de") in kinds(make_report(method="sparsegpt", mix_tokens=31))
    assert ("FEW_CALIBRATION_TOKENS", "de") not in kinds(make_report(method="sparsegpt", mix_tokens=32))
    assert ("FEW_CALIBRATION_TOKENS", "de") not in kinds(make_report(method="wanda", mix_tokens=31))


def test_notes_of_layers_become_one_verdict_that_names_the_first():
    report = make_report(blocks=blocks(6, notes=("damping raised to 0.1",)))
    message = next(verdict.message for verdict in report.verdicts if verdict.kind == "LAYER_NOTES")
    assert "1 layer was" in message
    assert "model.layers.1.mlp.down_proj.weight: damping raised to 0.1" in message
    many = [Block(i, (Layer(f"layers.{i}.x", (1, 1), 0, ("slow",)),)) for i in range(5)]
    message = next(v.message for v in make_report(blocks=many).verdicts if v.kind == "LAYER_NOTES")
    assert (
        message
        == "5 layers were pruned with difficulty: layers.0.x: slow; layers.1.x: slow; layers.2.x: slow; and 2 more."
    )
