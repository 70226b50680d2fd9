"""The plain-data form of a specification."""

import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

import secateur
from secateur._options import OPTIONS, prune_spec, with_options
from secateur._spec import load_spec, parse_yaml, spec_mapping, spec_message
from secateur.v1 import prune_job_pb2 as pb

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)  # what YAML writes as it is
TAGS = st.sampled_from(["de", "uk", "no", "zh-Hant", "on", "y", "null"])
INT32 = st.integers(-(2**31), 2**31 - 1)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries({"uri": TEXT.filter(bool)}),
        "calibration": st.fixed_dictionaries(
            {},
            optional={
                "languages": st.dictionaries(TAGS, st.floats(allow_nan=False), min_size=1),
                "samples": INT32,
                "seed": st.integers(-(2**63), 2**63 - 1),
                "chat_template": st.booleans(),
                "generation": st.fixed_dictionaries(
                    {}, optional={"top_k": INT32, "dropped_share": st.floats(allow_nan=False)}
                ),
            },
        ),
        "pruning": st.fixed_dictionaries(
            {},
            optional={
                "sparsity": st.floats(allow_nan=False),
                "pattern": TEXT,
                "allocation": st.fixed_dictionaries({}, optional={"policy": TEXT, "span": st.floats(allow_nan=False)}),
                "overrides": st.lists(
                    st.fixed_dictionaries(
                        {"layers": TEXT.filter(bool)},
                        optional={"sparsity": st.floats(allow_nan=False), "dense": st.booleans()},
                    ),
                    min_size=1,
                ),
            },
        ),
        "evaluation": st.fixed_dictionaries(
            {}, optional={"languages": st.lists(TAGS, min_size=1), "layer_snr": st.booleans()}
        ),
    },
)


def violations(data):
    with pytest.raises(secateur.InvalidSpecError) as caught:
        spec_message(data)
    return {violation.field: violation.description for violation in caught.value.violations}


@given(SPECS)
def test_a_message_holds_exactly_the_values_of_the_mapping(data):
    assert spec_mapping(spec_message(data)) == data


@settings(deadline=None)
@given(SPECS)
def test_yaml_changes_no_value(data):
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # in braces, it writes texts that begin with ? and cannot read them
    yaml.dump(data, stream)
    assert spec_mapping(spec_message(parse_yaml(stream.getvalue().encode(), "x"))) == data


def test_yaml_is_read_as_version_1_2():
    content = b"calibration: {languages: {no: 1, on: 2, y: 3}}\npruning: {pattern: 2:4}"
    message = spec_message(parse_yaml(content, "x"))
    assert [entry.language for entry in message.calibration.languages] == ["no", "on", "y"]
    assert message.pruning.pattern == "2:4"


def test_a_mix_may_be_a_mapping_a_list_of_languages_or_a_list_of_entries():
    forms = [{"de": None, "en": None}, ["de", "en"], [{"language": "de"}, {"language": "en"}]]
    messages = [spec_message({"calibration": {"languages": form}}) for form in forms]
    assert messages[0] == messages[1] == messages[2]
    assert not messages[0].calibration.languages[0].HasField("weight")


def test_overrides_may_be_a_mapping_in_which_the_kind_of_value_tells_what_is_meant():
    short = {"model.layers.0.*": "dense", "*.down_proj.weight": 0.4, "*.up_proj.weight": 1, "*.q_proj.weight": "2:4"}
    entries = [
        {"layers": "model.layers.0.*", "dense": True},
        {"layers": "*.down_proj.weight", "sparsity": 0.4},
        {"layers": "*.up_proj.weight", "sparsity": 1},
        {"layers": "*.q_proj.weight", "pattern": "2:4"},
    ]
    assert spec_message({"pruning": {"overrides": short}}) == spec_message({"pruning": {"overrides": entries}})
    assert "expected a number" in violations({"pruning": {"overrides": {"*": [0.4]}}})["pruning.overrides.*.sparsity"]
    assert '{"*.down_proj.weight": 0.4}' in violations({"pruning": {"overrides": "*"}})["pruning.overrides"]
    assert "a mapping" in violations({"pruning": {"overrides": ["*"]}})["pruning.overrides[0]"]


def test_numbers_that_are_not_finite_go_through_for_the_service_to_judge():
    message = spec_message(parse_yaml(b"pruning: {sparsity: .nan}\ncalibration: {languages: {de: .inf}}", "x"))
    assert math.isnan(message.pruning.sparsity)
    assert message.calibration.languages[0].weight == math.inf


def test_an_empty_text_reaches_the_service_or_is_refused_where_it_would_look_like_none():
    kept = {"calibration": {"text_field": ""}, "evaluation": {"corpus": ""}, "output": {"destination": ""}}
    assert spec_mapping(spec_message(kept)) == kept
    lost = violations({"model": {"uri": ""}, "calibration": {"corpus": "", "languages": {"": 1}}})
    assert {lost[path] for path in ("model.uri", "calibration.corpus", "calibration.languages..language")} == {
        "is empty; give it a value, or leave it out"
    }


def test_all_faults_of_the_shape_come_at_once_with_their_paths():
    found = violations(
        {
            "modle": {},
            "model": "file:///m",
            "calibration": {"sampels": 3, "samples": 1.5, "seed": 2**63, "languages": {"de": "much", False: 1}},
            "pruning": {"sparsity": True, "pattern": 24},
            "evaluation": {"languages": "de", "tokens_per_language": None, "layer_snr": "yes"},
        }
    )
    assert set(found) == {
        "modle",
        "model",
        "calibration.sampels",
        "calibration.samples",
        "calibration.seed",
        "calibration.languages.de.weight",
        "calibration.languages.False.language",
        "pruning.sparsity",
        "pruning.pattern",
        "evaluation.languages",
        "evaluation.layer_snr",
    }
    assert "did you mean model?" in found["modle"]
    assert "did you mean samples?" in found["calibration.sampels"]
    assert "corpus, languages, samples" in found["calibration.sampels"]
    assert "whole number" in found["calibration.samples"]
    assert "put it in quotes" in found["pruning.pattern"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["model", "calibration", "languages"]), inner)
        ),
    )
)
def test_any_data_becomes_a_message_or_a_list_of_faults(data):
    try:
        message = spec_message({"calibration": data, "model": data, "evaluation": data})
    except secateur.InvalidSpecError as error:
        paths = [violation.field.partition(".")[0] for violation in error.violations]
        assert set(paths) <= {"calibration", "model", "evaluation"}
        assert paths
    else:
        assert str(spec_message(spec_mapping(message))) == str(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [", "line 1"),
        (b"model: {uri: a}\nmodel: {uri: b}", "line 2, column 1 .*: the key model is there twice; keep one$"),
        (b"- model", "expected a mapping"),
        (b"", "is empty; expected a mapping"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: 1\n---\nb: 2", "spec.yaml"),
        (b"[" * 1_000, "spec.yaml"),
        (b"#" * (2**20 + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_specification_is_named_with_its_fault(tmp_path, content, message):
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(secateur.InvalidSpecError, match=message) as caught:
        load_spec(path)
    assert "spec.yaml" in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_too():
    with pytest.raises(secateur.InvalidSpecError, match=r"cannot read.*nowhere"):
        load_spec("/nowhere/spec.yaml")


def test_options_stand_where_the_specification_has_them():
    assert prune_spec(
        "file:///m", corpus="file:///c", languages=["de"], sparsity=0.5, evaluation_languages=["de"], destination=None
    ) == {
        "model": {"uri": "file:///m"},
        "calibration": {"corpus": "file:///c", "languages": ["de"]},
        "pruning": {"sparsity": 0.5},
        "evaluation": {"languages": ["de"]},
    }
    assert prune_spec(
        "file:///m",
        corpus="file:///c",
        languages=["de", "uk"],
        policy="temperature",
        temperature=2.0,
        sparsity=0.7,
        allocation="owl",
        span=0.1,
        overrides={"*.down_proj.weight": 0.4},
        layer_snr=False,
    ) == {
        "model": {"uri": "file:///m"},
        "calibration": {
            "corpus": "file:///c",
            "languages": ["de", "uk"],
            "policy": "temperature",
            "temperature": 2.0,
        },
        "pruning": {
            "sparsity": 0.7,
            "allocation": {"policy": "owl", "span": 0.1},
            "overrides": {"*.down_proj.weight": 0.4},
        },
        "evaluation": {"layer_snr": False},
    }
    with pytest.raises(TypeError, match="no such option: spars"):
        prune_spec("file:///m", spars=0.5)


def test_options_say_that_the_model_writes_the_text_or_puts_it_into_its_template():
    written = prune_spec("file:///m", languages=["de"], sparsity=0.5, generation={}, identify_languages=False)
    assert written["calibration"] == {"languages": ["de"], "generation": {}, "identify_languages": False}
    message = spec_message(written)
    assert message.calibration.HasField("generation")
    assert spec_mapping(message)["calibration"]["generation"] == {}
    talks = prune_spec(
        "file:///m", languages=["de"], sparsity=0.5, chat_template=True, generation=None, evaluation_chat_template=False
    )
    assert talks["calibration"] == {"languages": ["de"], "chat_template": True}
    assert talks["evaluation"] == {"chat_template": False}
    assert not spec_message(talks).calibration.HasField("generation")
    both = prune_spec("file:///m", languages=["de"], sparsity=0.5, generation={"top_k": 5}, chat_template=True)
    assert spec_mapping(spec_message(both))["calibration"] == {
        "languages": [{"language": "de"}],
        "generation": {"top_k": 5},
        "chat_template": True,
    }
    found = violations({"calibration": {"generation": {"topk": 5, "top_p": "most"}, "chat_template": "yes"}})
    assert set(found) == {
        "calibration.generation.topk",
        "calibration.generation.top_p",
        "calibration.chat_template",
    }
    assert "a mapping" in violations({"calibration": {"generation": True}})["calibration.generation"]


def test_every_field_of_a_specification_has_an_option():
    def leaves(descriptor, path=()):
        for field in descriptor.fields:
            nested = field.message_type not in (None, pb.GenerationSpec.DESCRIPTOR) and not field.is_repeated
            yield from leaves(field.message_type, (*path, field.name)) if nested else [(*path, field.name)]

    assert set(leaves(pb.PruneSpec.DESCRIPTOR)) == {*(option.path for option in OPTIONS.values()), ("model", "uri")}


def test_an_option_inside_a_part_of_a_part_leaves_the_rest_of_the_file_as_it_is():
    spec = {"pruning": {"method": "wanda", "allocation": {"policy": "owl", "outlier": 3}}}
    assert with_options(spec, {"span": 0.1}) == {
        "pruning": {"method": "wanda", "allocation": {"policy": "owl", "outlier": 3, "span": 0.1}}
    }
    assert spec == {"pruning": {"method": "wanda", "allocation": {"policy": "owl", "outlier": 3}}}
    assert with_options({"pruning": 3}, {"span": 0.1, "sparsity": 0.5}) == {"pruning": 3}


def test_a_target_given_as_an_option_replaces_the_one_in_the_file_and_leaves_the_file_alone():
    spec = {"pruning": {"method": "wanda", "sparsity": 0.5}}
    assert with_options(spec, {"pattern": "2:4"}) == {"pruning": {"method": "wanda", "pattern": "2:4"}}
    assert spec == {"pruning": {"method": "wanda", "sparsity": 0.5}}


def test_a_target_of_shrinking_replaces_the_other_one_of_the_file():
    spec = {"shrink": {"vocabulary": {"rows": 512, "keep_texts": ["a"]}, "feed_forward": {"channels": 8}}}
    assert with_options(spec, {"extra_tokens": 0.01, "feed_forward_share": 0.5}) == {
        "shrink": {"vocabulary": {"extra_tokens": 0.01, "keep_texts": ["a"]}, "feed_forward": {"share": 0.5}}
    }
    assert with_options(spec, {"seed": 1})["shrink"] == spec["shrink"]


@pytest.mark.parametrize(
    ("content", "path", "hint"),
    [
        (b"model: file:///m", "model", "did you mean {uri: file:///m}?"),
        (b"pruning: 0.5", "pruning", "did you mean {sparsity: 0.5}?"),
        (b"pruning: 2:4", "pruning", "did you mean {pattern: 2:4}?"),
        (b"pruning: {sparsity: 0,5}", "pruning.sparsity", "such as 0.5"),
    ],
)
def test_a_value_without_its_field_and_a_decimal_comma_are_answered_with_what_was_meant(content, path, hint):
    with pytest.raises(secateur.InvalidSpecError) as caught:
        spec_message(parse_yaml(content, "spec.yaml"))
    (violation,) = caught.value.violations
    assert violation.field == path
    assert violation.description.endswith(hint)
