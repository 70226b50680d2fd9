import json
import math
import random
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from secateur_service.evaluation.growth_verdicts import MIN_SCORED_TOKENS
from secateur_service.evaluation.parts import VocabularyPart
from secateur_service.evaluation.report import Report, report_schema, schema_bytes
from support.reports import Block, Layer, blocks, continued, evaluation, kinds, make_report, task

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
    report = make_report(blocks=blocks(notes=("damping raised",)), continuations=[continued()])
    document = json.loads(report.to_bytes())
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
    assert kinds(make_report(ratios={"de": 1.4})) == set()


def test_a_language_is_compared_with_the_others_of_the_mix_and_not_with_those_that_nobody_kept():
    ratios = {"de": 1.45, "en": 1.1, "ar": 3.0, "zh": 3.0}
    report = make_report(mix={"de": 0.5, "en": 0.5}, ratios=ratios)
    assert {language for kind, language in kinds(report) if kind == "LANGUAGE_LEFT_BEHIND"} == {"de", "ar", "zh"}
    (told,) = [each.message for each in report.verdicts if (each.kind, each.language) == ("LANGUAGE_LEFT_BEHIND", "de")]
    assert "that of en (English) ×1.10" in told


def test_a_language_of_the_mix_whose_perplexity_doubled_is_damaged_even_if_all_did():
    report = make_report(evaluation=[evaluation(name, 2.02, error=0.02) for name in ("de", "en")])
    found = [verdict for verdict in report.verdicts if verdict.kind == "LANGUAGE_DAMAGED"]
    assert [verdict.language for verdict in found] == ["de", "en"]
    assert "its perplexity grew ×2.02, a heavy loss" in found[0].message
    assert found[0].evidence.threshold == 1.5
    assert found[0].evidence.interval[0] > 1.5
    apart = make_report(ratios={"de": 1.1, "es": 3.0})
    assert not any(kind == "LANGUAGE_DAMAGED" for kind, _ in kinds(apart))  # nobody asked to keep es
    lost = {kind for kind, _ in kinds(make_report(ratios={"de": 12.0}))}
    assert "LANGUAGE_LOST" in lost
    assert "LANGUAGE_DAMAGED" not in lost


def test_no_language_is_damaged_where_all_lost_a_little_less_than_that():
    draw = random.Random(0)
    raised = 0
    for _ in range(400):
        ratios = {name: 1.4999 * math.exp(draw.gauss(0, 0.1)) for name in ("ar", "de", "en", "uk")}
        report = make_report(evaluation=[evaluation(name, ratio, error=0.1) for name, ratio in ratios.items()])
        raised += any(kind == "LANGUAGE_DAMAGED" for kind, _ in kinds(report))
    assert raised <= 400 * 0.05
    assert raised  # the level is not so strict that nothing is ever found


@pytest.mark.parametrize(
    ("method", "changes", "told"),
    [
        ("wanda", {}, "pruning.preset: best"),
        ("sparsegpt", {}, "train the blocks"),
        ("wanda", {"vocabulary": VocabularyPart(rows=10, rows_before=20, languages={})}, "Remove less"),
    ],
)
def test_the_remedy_for_a_damaged_language_is_one_that_was_not_taken(method, changes, told):
    found = make_report(ratios={"de": 2.0}, method=method, **changes).verdicts
    assert told in next(verdict.message for verdict in found if verdict.kind == "LANGUAGE_DAMAGED")


def test_a_language_is_left_behind_only_beyond_the_noise():
    def found(error):
        ratios = {"de": 1.1, "en": 1.1, "es": 1.4}
        return make_report(evaluation=[evaluation(name, ratio, error=error) for name, ratio in ratios.items()])

    verdicts = {verdict.kind: verdict for verdict in found(0.05).verdicts}
    evidence = verdicts["LANGUAGE_LEFT_BEHIND"].evidence
    assert evidence.estimate == pytest.approx(1.4 / 1.1)
    assert evidence.threshold == 1.2
    assert evidence.z == pytest.approx(math.log(1.4 / 1.1) / math.hypot(0.05, 0.05 / math.sqrt(2)))
    assert evidence.interval[0] < evidence.estimate < evidence.interval[1]
    assert "LANGUAGE_LEFT_BEHIND" not in {kind for kind, _ in kinds(found(0.2))}
    assert ("SAMPLE_TOO_SMALL", "es") in kinds(found(0.2))


def test_no_language_is_left_behind_where_all_lost_the_same():
    draw = random.Random(0)
    raised = 0
    for _ in range(400):
        ratios = {name: 1.3 * math.exp(draw.gauss(0, 0.1)) for name in ("ar", "de", "en", "uk")}
        report = make_report(evaluation=[evaluation(name, ratio, error=0.1) for name, ratio in ratios.items()])
        raised += any(kind == "LANGUAGE_LEFT_BEHIND" for kind, _ in kinds(report))
    assert raised <= 400 * 0.05
    assert raised  # the level is not so strict that nothing is ever found


def test_tasks_that_were_lost_while_perplexity_was_kept_are_pointed_out():
    lost = task("xnli_de", [1] * 60 + [0] * 40, [1] * 40 + [0] * 55 + [1] * 5)  # 20 lost, 5 won
    for ratio, kind in ((1.05, "PERPLEXITY_KEPT_TASKS_LOST"), (1.5, "TASKS_LOST")):
        report = make_report(ratios={"de": ratio}, tasks=[lost])
        (verdict,) = [verdict for verdict in report.verdicts if verdict.kind == kind]
        assert "20 were lost and 5 won" in verdict.message
        assert verdict.evidence.z == pytest.approx(-15 / 5)
        assert verdict.evidence.estimate == pytest.approx(-0.15)
    few = task("xnli_de", [1] * 60 + [0] * 40, [1] * 50 + [0] * 43 + [1] * 7)  # 10 lost, 7 won
    assert not any("TASKS_LOST" in kind for kind, _ in kinds(make_report(ratios={"de": 1.05}, tasks=[few])))
    won = task("xnli_de", [0] * 100, [1] * 100)
    assert not any("TASKS_LOST" in kind for kind, _ in kinds(make_report(ratios={"de": 1.05}, tasks=[won])))
    less_is_better = won.model_copy(update={"higher_is_better": False})
    (told,) = [each for each in make_report(tasks=[less_is_better]).verdicts if "TASKS_LOST" in each.kind]
    assert "acc rose from 0.000 to 1.000" in told.message
    assert "100 were lost and 0 won" in told.message


def test_a_task_counts_once_however_many_metrics_it_has():
    answers = [1] * 60 + [0] * 40, [1] * 40 + [0] * 55 + [1] * 5
    both = [task("xnli_de", *answers), task("xnli_de", *answers, metric="acc_norm")]
    report = make_report(ratios={"de": 1.05}, tasks=both)
    assert sum("TASKS_LOST" in verdict.kind for verdict in report.verdicts) == 1


def test_no_task_is_lost_where_items_flip_by_chance():
    draw = random.Random(0)
    raised = 0
    for _ in range(200):
        tasks = []
        for name in ("xnli_de", "xnli_uk", "belebele_deu", "belebele_ukr"):
            before = [int(draw.random() < 0.6) for _ in range(100)]
            after = [1 - answer if draw.random() < 0.2 else answer for answer in before]
            fair = [late if draw.random() < 0.5 else early for early, late in zip(before, after, strict=True)]
            swapped = [early + late - one for early, late, one in zip(before, after, fair, strict=True)]
            tasks.append(task(name, fair, swapped))  # which of the two models is the pruned one is a coin's choice
        raised += any("TASKS_LOST" in kind for kind, _ in kinds(make_report(ratios={"de": 1.05}, tasks=tasks)))
    assert raised <= 200 * 0.05


def test_growth_within_the_noise_is_called_so():
    report = make_report(evaluation=[evaluation("de", 1.004, error=0.004), evaluation("en", 1.01, error=0.004)])
    noise = [verdict for verdict in report.verdicts if verdict.kind == "WITHIN_NOISE"]
    assert [verdict.language for verdict in noise] == ["de"]
    assert noise[0].evidence.z == pytest.approx(math.log(1.004) / 0.004)


def test_a_sample_is_too_small_if_its_interval_is_wide_for_what_was_lost():
    for ratio, error, is_small in ((1.0, 0.009, False), (1.0, 0.012, True), (2.0, 0.1, False), (2.0, 0.2, True)):
        report = make_report(evaluation=[evaluation("de", ratio, error=error)])
        assert (("SAMPLE_TOO_SMALL", "de") in kinds(report)) == is_small, (ratio, error)
    few = make_report(evaluation=[evaluation("de", 1.1, documents=7)])
    message = next(verdict.message for verdict in few.verdicts if verdict.kind == "SAMPLE_TOO_SMALL")
    assert "its 7 documents are too few" in message


def test_a_limit_within_the_interval_is_unclear_and_one_beyond_it_is_kept():
    spec = make_report().spec | {"limits": {"languages": [{"language": "de", "growth": 0.02}]}}
    for growth, expected in ((0.019, "LIMIT_UNCLEAR"), (0.021, "LIMIT_EXCEEDED"), (0.01, None)):
        ratio = math.exp(growth * math.log(8.0))
        report = make_report(spec=spec, evaluation=[evaluation("de", ratio, error=0.002 * math.log(8.0))])
        found = {kind for kind, _ in kinds(report)} & {"LIMIT_UNCLEAR", "LIMIT_EXCEEDED"}
        assert found == ({expected} if expected else set())
        assert (
            report.decision.answer == {"LIMIT_UNCLEAR": "CANNOT_TELL", "LIMIT_EXCEEDED": "FAIL", None: "PASS"}[expected]
        )


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
    assert "The update of 1 layer did not work as specified" in message
    assert "model.layers.1.mlp.down_proj.weight: damping raised to 0.1" in message
    many = [Block(i, (Layer(f"layers.{i}.x", (1, 1), 0, ("slow",)),)) for i in range(5)]
    message = next(v.message for v in make_report(blocks=many).verdicts if v.kind == "LAYER_NOTES")
    assert "5 layers" in message
    assert "repaired: layers.0.x: slow; layers.1.x: slow; layers.2.x: slow; and 2 more." in message
