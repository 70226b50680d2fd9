import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.calibration.mixing import POLICIES
from secateur_service.errors import InvalidSpecError
from secateur_service.pruning.methods import GROUPS, METHODS, UPDATES, goes_together, options_of
from secateur_service.spec import (
    ALLOCATIONS,
    ORDERS,
    SPEC_FORMAT,
    CalibrationSpec,
    EvaluationSpec,
    GenerationSpec,
    PruneSpec,
    parse_parts,
    parse_spec,
)

GOOD = {
    "model": {"uri": "file:///m"},
    "calibration": {"corpus": "file:///c", "languages": [{"language": "de", "weight": 2}, {"language": "uk"}]},
    "pruning": {"method": "wanda", "sparsity": 0.5},
}


def violations(**parts):
    with pytest.raises(InvalidSpecError) as caught:
        parse_spec({**GOOD, **parts})
    return {violation.field: violation.description for violation in caught.value.violations}


def test_weights_are_normalised_and_samples_divided_equally():
    calibration = parse_spec(GOOD).calibration
    assert calibration.mix == {"de": pytest.approx(2 / 3), "uk": pytest.approx(1 / 3)}
    assert calibration.samples_per_language == 64


@pytest.mark.parametrize(
    ("part", "content", "field", "complaint"),
    [
        ("pruning", {"sparsity": 1.5}, "pruning.sparsity", "less than 1, not 1.5; expected a share"),
        ("pruning", {"sparsity": 0}, "pruning.sparsity", "greater than 0"),
        ("pruning", {"sparsity": math.nan}, "pruning.sparsity", "finite number"),
        ("pruning", {}, "pruning.sparsity", "neither sparsity nor pattern is given"),
        ("pruning", {"sparsity": 0.5, "pattern": "2:4"}, "pruning.sparsity", "sparsity and pattern are both given"),
        ("pruning", {"pattern": "3:2"}, "pruning.pattern", "'3:2' is not a pattern that keeps some"),
        ("pruning", {"pattern": "4:4"}, "pruning.pattern", "is not a pattern"),
        ("pruning", {"pattern": "0:4"}, "pruning.pattern", "is not a pattern"),
        ("pruning", {"pattern": "half"}, "pruning.pattern", "expected N:M"),
        ("pruning", {"method": "random", "sparsity": 0.5}, "pruning.method", "expected one of magnitude, wanda"),
        ("pruning", {"method": "wanda", "update": "admm", "sparsity": 0.5}, "pruning.update", "does not go with wanda"),
        ("pruning", {"method": "alps", "update": "cg", "sparsity": 0.5}, "pruning.update", "does not go with alps"),
        ("pruning", {"patern": "2:4", "sparsity": 0.5}, "pruning.patern", "no such field; did you mean pattern?"),
        ("execution", {"processes": 9}, "execution.processes", "less than or equal to 8, not 9; expected between 1"),
        ("execution", {"processes": 0}, "execution.processes", "greater than or equal to 1"),
        ("calibration", {"corpus": "file:///c", "languages": []}, "calibration.languages", "at least one language"),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "xq"}]},
            "calibration.languages[0].language",
            "'xq' is not a language that BCP 47 knows; expected a BCP 47 tag",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}, {"language": "de"}]},
            "calibration.languages",
            "de is listed twice; merge its entries: each language may appear once",
        ),
        *(
            (
                "calibration",
                {"corpus": "file:///c", "languages": [{"language": one}, {"language": other}]},
                "calibration.languages",
                f"{one} and {other} are one language, {name}; merge",
            )
            for one, other, name in [("DE", "de", "de"), ("iw", "he", "he"), ("zh-hant-tw", "zh-TW", "zh-Hant-TW")]
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de", "weight": 0}]},
            "calibration.languages",
            "the weights sum to zero",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de", "weight": -1}]},
            "calibration.languages[0].weight",
            "not negative",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}, {"language": "uk"}], "samples": 1},
            "calibration.samples",
            "cannot serve 2 languages",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}], "policy": "fair"},
            "calibration.policy",
            "expected one of weights, proportional, temperature, minimax",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}], "temperature": 2},
            "calibration.temperature",
            "the policy weights has none; leave it out, or use policy temperature",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}], "policy": "temperature", "temperature": 0.5},
            "calibration.temperature",
            "expected a number of at least 1",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de", "weight": 1e300}]},
            "calibration.languages[0].weight",
            "a number from 0 to 1e12",
        ),
        (
            "calibration",
            {
                "corpus": "file:///c",
                "languages": [{"language": "de", "weight": 3}, {"language": "uk"}],
                "policy": "proportional",
            },
            "calibration.languages",
            "some languages have none; give every language its share, or none",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}, {"language": "rw"}], "policy": "temperature"},
            "calibration.languages",
            "mC4 has no share of rw; give every language its share as its weight",
        ),
        (
            "calibration",
            {
                "corpus": "file:///c",
                "languages": [{"language": "de", "weight": 3}, {"language": "uk", "weight": 0}],
                "policy": "minimax",
            },
            "calibration.policy",
            "at least two of them a positive weight",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}], "generation": {}, "chat_template": True},
            "calibration.generation",
            "does not go with chat_template: the model continues plain text, not conversations; leave one out",
        ),
        *[
            (
                "calibration",
                {"corpus": "file:///c", "languages": [{"language": "de"}], "generation": {name: value}},
                f"calibration.generation.{name}",
                complaint,
            )
            for name, value, complaint in (
                ("prefix_tokens", 0, "greater than or equal to 1, not 0; expected tokens of a document to continue"),
                ("new_tokens", 0, "expected tokens to add at the most, at least 1"),
                ("temperature", 1e-300, "expected a number from 0.01 to 100"),
                ("top_p", 1.1, "expected a probability above 0, at most 1"),
                ("top_k", 0, "expected a whole number of at least 1"),
                ("repetition_penalty", 0.5, "expected a number of at least 1"),
                ("dropped_share", 1, "expected a share of at least 0 and less than 1"),
                ("heat", 3, "no such field; known are prefix_tokens, new_tokens, temperature"),
            )
        ],
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}], "generation": True},
            "calibration.generation",
            "expected a part with prefix_tokens, new_tokens",
        ),
        (
            "calibration",
            {"corpus": "file:///c", "languages": [{"language": "de"}], "identify_languages": "perhaps"},
            "calibration.identify_languages",
            "expected true or false",
        ),
        ("evaluation", {"chat_template": "perhaps"}, "evaluation.chat_template", "expected true or false"),
        ("pruning", {"sparsity": 0.5, "order": "sideways"}, "pruning.order", "expected one of block, true_sequential"),
        ("pruning", {"sparsity": 0.5, "group": "column"}, "pruning.group", "expected one of row, layer"),
        ("pruning", {"pattern": "2:4", "group": "row"}, "pruning.group", "within its groups of inputs; leave it out"),
        ("pruning", {"sparsity": 0.5, "spread": 1}, "pruning.spread", "sparsegpt has none"),
        (
            "pruning",
            {"sparsity": 0.5, "method": "wanda_multilingual", "spread": -1},
            "pruning.spread",
            "expected a number that is not negative",
        ),
        (
            "pruning",
            {"pattern": "2:4", "allocation": {"policy": "owl"}},
            "pruning.allocation.policy",
            "2:4 prunes every layer alike",
        ),
        (
            "pruning",
            {"sparsity": 0.5, "allocation": {"policy": "best"}},
            "pruning.allocation.policy",
            "expected one of uniform, owl, multilingual",
        ),
        ("pruning", {"sparsity": 0.5, "allocation": {"span": 0.1}}, "pruning.allocation.span", "uniform"),
        (
            "pruning",
            {"sparsity": 0.5, "allocation": {"policy": "owl", "span": 0.5}},
            "pruning.allocation.span",
            "between 0 and 0.5",
        ),
        ("pruning", {"sparsity": 0.5, "allocation": {"outlier": 3}}, "pruning.allocation.outlier", "uniform"),
        (
            "pruning",
            {"sparsity": 0.5, "overrides": [{"layers": "*.q_proj.weight"}]},
            "pruning.overrides[0].sparsity",
            "exactly one of sparsity, pattern and dense",
        ),
        (
            "pruning",
            {
                "sparsity": 0.5,
                "overrides": [{"layers": "*", "dense": True}, {"layers": "a", "dense": True, "sparsity": 0.1}],
            },
            "pruning.overrides[1].sparsity",
            "exactly one of sparsity, pattern and dense",
        ),
        (
            "pruning",
            {"sparsity": 0.5, "overrides": [{"layers": "*", "pattern": "4:2"}]},
            "pruning.overrides[0].pattern",
            "'4:2' is not a pattern",
        ),
        (
            "pruning",
            {"sparsity": 0.5, "overrides": [{"dense": True}]},
            "pruning.overrides[0].layers",
            "layers is missing",
        ),
        (
            "evaluation",
            {"languages": ["de", "de"]},
            "evaluation.languages",
            "names a language twice: de is listed twice",
        ),
        ("evaluation", {"languages": ["de", "xq"]}, "evaluation.languages[1]", "'xq' is not a language"),
        ("evaluation", {"layer_snr": "perhaps"}, "evaluation.layer_snr", "expected true or false"),
        (
            "evaluation",
            {"languages": ["de"], "language_neurons": True},
            "evaluation.language_neurons",
            "only de is evaluated, and a neuron belongs to a language by comparison with others; add languages",
        ),
        ("model", {}, "model.uri", "uri is missing; expected a safetensors checkpoint"),
        ("quantisation", {}, "quantisation", "no such part of a specification; known are model"),
    ],
)
def test_a_broken_rule_is_named_by_its_field_with_the_remedy_and_by_nothing_else(part, content, field, complaint):
    found = violations(**{part: content})
    assert list(found) == [field]
    assert complaint in found[field]


@pytest.mark.parametrize("part", ["calibration", "reconstruction"])
def test_a_seed_that_json_would_round_is_refused_and_still_read_from_jobs_that_have_one(part):
    content = {"reconstruction": {}, **GOOD}
    largest = parse_spec({**content, part: {**content[part], "seed": 2**53 - 1}}).model_dump()
    assert json.loads(json.dumps(float(largest[part]["seed"]))) == largest[part]["seed"]
    for seed in (2**53, 2**63 - 1):
        found = violations(**{"reconstruction": {}, part: {**content[part], "seed": seed}})
        assert found.keys() == {f"{part}.seed"}
        assert f"{seed} is too large" in found[f"{part}.seed"]
        stored = PruneSpec.model_validate({**largest, part: {**largest[part], "seed": seed}})
        assert getattr(stored, part).seed == seed


def test_all_broken_rules_come_back_together():
    found = violations(
        pruning={"sparsity": 2},
        calibration={"corpus": "", "languages": [{"language": "xq"}, {"language": "de", "weight": math.inf}]},
        evaluation={"tokens_per_language": 1},
    )
    assert list(found) == [
        "calibration.corpus",
        "calibration.languages[0].language",
        "calibration.languages[1].weight",
        "pruning.sparsity",
        "evaluation.tokens_per_language",
    ]


def test_rules_between_fields_of_one_part_come_back_together_too():
    found = violations(
        pruning={
            "pattern": "2:4",
            "update": "admm",
            "group": "row",
            "spread": 1,
            "allocation": {"policy": "owl"},
        }
    )
    assert list(found) == [f"pruning.{name}" for name in ("update", "group", "allocation.policy", "spread")]


def test_what_does_not_go_together_in_different_parts_is_refused_too():
    found = violations(
        calibration={**GOOD["calibration"], "policy": "minimax"},
        pruning={"method": "magnitude", "sparsity": 0.5},
    )
    assert "magnitude with update none uses no text" in found["calibration.policy"]


def mix(policy, weights, **options):
    languages = [{"language": name, "weight": weight} for name, weight in weights.items()]
    content = {"corpus": "file:///c", "languages": languages, "policy": policy, **options}
    return parse_spec({**GOOD, "calibration": content}).calibration


def test_weights_follow_the_policy():
    assert mix("weights", {"de": 3, "uk": None}).mix == {"de": 0.75, "uk": 0.25}
    assert mix("minimax", {"de": 3, "uk": None}).mix == {"de": 0.75, "uk": 0.25}
    assert mix("proportional", {"de": 9, "uk": 1}).mix == {"de": 0.9, "uk": 0.1}
    assert mix("proportional", {"de": None, "uk": None}).mix == pytest.approx({"de": 347 / 388, "uk": 41 / 388})
    assert mix("temperature", {"de": 9, "uk": 1}, temperature=2).mix == {"de": 0.75, "uk": 0.25}
    assert mix("temperature", {"de": 9, "uk": 1}).mix["de"] == pytest.approx(1 / (1 + 9 ** (-1 / 3.33)))


@pytest.mark.parametrize("policy", ["weights", "proportional", "temperature", "minimax"])
@given(weights=st.dictionaries(st.sampled_from(["ar", "de", "en", "uk"]), st.floats(1e-3, 1e6), min_size=2))
def test_a_resolved_specification_resolves_to_itself(policy, weights):
    once = mix(policy, weights).resolved(64)
    again = CalibrationSpec.model_validate(once.model_dump(mode="json")).resolved(64)
    assert again == once
    assert once.policy == ("minimax" if policy == "minimax" else "weights")
    assert {entry.language: entry.weight for entry in once.languages} == mix(policy, weights).mix


def test_text_is_written_by_the_model_only_where_it_is_asked_for_and_may_be_evaluated_in_a_template():
    assert mix("weights", {"de": 1}).generation is None
    assert mix("weights", {"de": 1}, generation=None).generation is None
    written = mix("weights", {"de": 1}, generation={})
    assert written.generation == GenerationSpec()
    assert written.generation.new_tokens is None
    content = {"calibration": written.model_dump(), "evaluation": {"chat_template": True}}
    assert parse_spec({**GOOD, **content}).evaluation.chat_template is True


@pytest.mark.parametrize(
    ("given", "length", "prefix", "new_tokens"),
    [({}, 2048, 64, 1984), ({}, 32, 8, 24), ({"prefix_tokens": 16}, 32, 16, 16), ({"new_tokens": 7}, 2048, 64, 7)],
)
def test_resolving_fills_a_sequence_with_new_tokens_unless_their_number_is_given(given, length, prefix, new_tokens):
    once = mix("weights", {"de": 1}, generation=given).resolved(length)
    assert once.generation.new_tokens == new_tokens
    assert once.generation.prefix_tokens == prefix
    assert once.resolved(length) == once


def pruning(**content):
    return parse_spec({**GOOD, "pruning": content}).pruning


def test_resolving_fills_in_what_the_method_and_the_policies_have_by_default():
    resolved = pruning(method="wanda_multilingual", sparsity=0.5, allocation={"policy": "owl"}).resolved()
    assert (resolved.update, resolved.group) == ("none", "row")
    assert resolved.spread == options_of("wanda_multilingual")["spread"]
    assert (resolved.allocation.span, resolved.allocation.outlier) == (0.08, 5.0)
    resolved = pruning(sparsity=0.5, allocation={"policy": "multilingual"}).resolved()
    assert (resolved.method, resolved.update, resolved.group, resolved.spread) == ("sparsegpt", "cg", "layer", None)
    assert (resolved.allocation.span, resolved.allocation.outlier) == (0.08, 5.0)
    resolved = pruning(pattern="2:4").resolved()
    assert (resolved.group, resolved.allocation.span) == (None, None)


@pytest.mark.parametrize(
    ("given", "method", "update", "asymmetric", "is_trained"),
    [
        ({"preset": "fast"}, "sparsegpt", "cg", False, False),
        ({"preset": "balanced"}, "sparsegpt", "cg", True, False),
        ({}, "sparsegpt", "cg", True, False),
        ({"preset": "best"}, "alps", "admm", False, True),
        ({"preset": "best", "asymmetric": True}, "alps", "admm", True, True),
        ({"method": "sparsegpt", "update": "none"}, "sparsegpt", "none", False, False),
        ({"preset": "balanced", "order": "dense"}, "sparsegpt", "cg", False, False),
    ],
)
def test_a_preset_fills_in_what_is_not_given(given, method, update, asymmetric, is_trained):
    spec = parse_spec({**GOOD, "pruning": {"sparsity": 0.5, **given}})
    assert (spec.reconstruction is not None) is is_trained
    resolved = spec.pruning.resolved(trained=is_trained)
    assert (resolved.method, resolved.update, resolved.asymmetric) == (method, update, asymmetric)
    assert resolved.preset == given.get("preset")
    assert parse_spec({**GOOD, "pruning": resolved.model_dump()}).pruning == resolved


def test_a_preset_that_trains_blocks_keeps_how_it_is_told_to_and_obeys_their_rules():
    spec = parse_spec({**GOOD, "pruning": {"sparsity": 0.5, "preset": "best"}, "reconstruction": {"epochs": 9}})
    assert spec.reconstruction.epochs == 9


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"preset": "slow"}, "one of fast, balanced, best"),
        ({"preset": "best", "order": "dense"}, "best trains blocks, but in order dense"),
        ({"preset": "best", "update": "cg"}, "best is alps with update admm; leave the preset out"),
        ({"preset": "fast", "method": "ria"}, "fast is sparsegpt with update cg; leave the preset out"),
    ],
)
def test_what_contradicts_a_preset_is_refused_there(given, told):
    with pytest.raises(InvalidSpecError) as caught:
        parse_spec({**GOOD, "pruning": {"sparsity": 0.5, **given}})
    (violation,) = caught.value.violations
    assert violation.field == "pruning.preset"
    assert told in violation.description


def test_naming_the_default_changes_nothing_and_a_resolved_update_stays():
    default = pruning(sparsity=0.5).resolved()
    assert pruning(method="sparsegpt", sparsity=0.5).resolved() == default
    assert pruning(update="cg", sparsity=0.5).resolved() == default
    older = pruning(method="sparsegpt", update="obs", sparsity=0.5).resolved()
    assert older.update == "obs"
    assert pruning(**older.model_dump()).resolved() == older


def test_what_is_given_is_not_replaced_by_a_default():
    given = {
        "method": "wanda_multilingual",
        "update": "cg",
        "sparsity": 0.5,
        "group": "layer",
        "spread": 0.0,
        "allocation": {"policy": "owl", "span": 0.2, "outlier": 3.0},
    }
    resolved = pruning(**given).resolved()
    assert resolved.model_dump(exclude_none=True, include=set(given)) == given
    assert resolved.resolved() == resolved


def test_the_last_override_that_matches_a_layer_holds():
    spec = pruning(
        sparsity=0.5,
        overrides=[
            {"layers": "model.layers.1.*", "sparsity": 0.1},
            {"layers": "*.down_proj.weight", "pattern": "2:4"},
            {"layers": "model.layers.1[0-9].*", "dense": True},
        ],
    )
    assert spec.override_of("model.layers.1.mlp.up_proj.weight").sparsity == 0.1
    assert spec.override_of("model.layers.1.mlp.down_proj.weight").kept_of_group == (2, 4)
    assert spec.override_of("model.layers.12.mlp.down_proj.weight").dense
    assert spec.override_of("model.layers.2.mlp.up_proj.weight") is None
    assert spec.override_of("MODEL.layers.1.mlp.up_proj.weight") is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("update", UPDATES)
def test_methods_take_the_updates_that_go_with_them(method, update):
    data = {**GOOD, "pruning": {"method": method, "update": update, "sparsity": 0.5}}
    if goes_together(method, update):
        assert parse_spec(data).pruning.effective_update == update
    else:
        with pytest.raises(InvalidSpecError):
            parse_spec(data)


def test_equal_specifications_have_equal_digests_and_others_have_not():
    other = {**GOOD, "pruning": {"method": "wanda", "sparsity": 0.6}}
    assert parse_spec(GOOD).digest() == parse_spec(dict(reversed(GOOD.items()))).digest() != parse_spec(other).digest()


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


PARTS = ["model", "calibration", "pruning", "evaluation", "output", "execution"]


@given(part=st.sampled_from(PARTS), content=json_like)
def test_whatever_a_part_holds_it_is_accepted_or_refused_with_its_fields(part, content):
    _, found = parse_parts({**GOOD, part: content})
    assert all(violation.field.startswith(part) and violation.description for violation in found)


@pytest.mark.parametrize(
    ("given", "enough", "least"),
    [
        ({}, 500, 16_384),
        ({"tokens_per_language": 65_536}, None, 65_536),  # as a release without the field resolved it
        ({"tokens_per_language": 4096, "enough_documents": 50}, 50, 1024),
        ({"enough_documents": 50}, 50, 16_384),
    ],
)
def test_documents_are_enough_where_nobody_says_how_many_tokens(given, enough, least):
    evaluation = EvaluationSpec.model_validate(given)
    assert (evaluation.resolved_enough_documents, evaluation.least_tokens) == (enough, least)
    resolved = evaluation.model_copy(update={"enough_documents": evaluation.resolved_enough_documents})
    again = EvaluationSpec.model_validate(resolved.model_dump(mode="json"))
    assert (again.resolved_enough_documents, again.least_tokens) == (enough, least)


def test_a_specification_with_other_fields_or_choices_is_in_another_format():
    """Where this fails, older replicas cannot run what this release admits: raise SPEC_FORMAT, once it is released."""
    parts = PruneSpec.model_json_schema()
    names = {name: sorted(part["properties"]) for name, part in {"": parts, **parts["$defs"]}.items()}
    choices = [list(known) for known in (METHODS, UPDATES, GROUPS, ORDERS, POLICIES, ALLOCATIONS)]
    digest = hashlib.sha256(json.dumps([names, choices], sort_keys=True).encode()).hexdigest()[:12]
    assert (SPEC_FORMAT, digest) == (1, "44f4a747b638")
