"""What can be judged only with the model and the corpora at hand, and what a job is expected to cost."""

import json
import shutil

import pytest

from secateur_service.admission import AccessPolicy, LastModel, admit
from secateur_service.api.conversion import resolved_to_message, spec_to_dict
from secateur_service.errors import InvalidSpecError
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.models import save_corpora, save_model, spec_data

SOURCES = open_sources(Settings(), everywhere=True)
EVERYWHERE = AccessPolicy(SOURCES, destinations=None, on_device=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("admission")
    return save_model(folder / "model"), *save_corpora(folder)


def admitted(places, *, calibration=None, evaluation=None, on_device=False, **pruning):
    data = spec_data(*places, **pruning)
    data["calibration"] |= calibration or {}
    data["evaluation"] |= evaluation or {}
    return admit(data, AccessPolicy(SOURCES, None, on_device=on_device))


def refused(places, **parts):
    with pytest.raises(InvalidSpecError) as caught:
        admitted(places, **parts)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_the_resolved_specification_leaves_nothing_open_and_is_admitted_as_it_is(places):
    first = admitted(
        places,
        calibration={"languages": [{"language": "de"}, {"language": "uk"}], "policy": "temperature"},
        method="wanda",
        sparsity=0.6,
        allocation={"policy": "owl"},
        overrides=[{"layers": "*.down_proj.weight", "dense": True}],
    ).resolved
    weights = {entry.language: entry.weight for entry in first.calibration.languages}
    assert weights["de"] / weights["uk"] == pytest.approx((347 / 41) ** (1 / 3.33))
    assert first.pruning.group == "row"
    assert admit(first.model_dump(mode="json"), EVERYWHERE).resolved == first


def test_a_resolved_specification_says_how_text_is_made_and_is_admitted_as_it_is(places):
    written = admitted(places, calibration={"generation": {"prefix_tokens": 16}}).resolved
    assert written.calibration.generation.new_tokens == 64 - 16
    assert (written.calibration.chat_template, written.evaluation.chat_template) == (False, False)
    talks = admitted(places, calibration={"chat_template": True, "identify_languages": False}).resolved
    assert (talks.calibration.generation, talks.evaluation.chat_template) == (None, True)
    plain_evaluation = admitted(
        places, calibration={"chat_template": True}, evaluation={"chat_template": False}
    ).resolved
    assert plain_evaluation.evaluation.chat_template is False
    other_evaluation = admitted(places, calibration={"generation": {}}, evaluation={"chat_template": True}).resolved
    assert other_evaluation.evaluation.chat_template is True
    for resolved in (written, talks, plain_evaluation, other_evaluation):
        assert admit(resolved.model_dump(mode="json"), EVERYWHERE).resolved == resolved
        sent = spec_to_dict(resolved_to_message(resolved))
        assert admit(sent, EVERYWHERE).resolved == resolved


def test_text_that_is_written_has_to_fit_into_the_model(places):
    complaints = {
        "use at most 256 together": {"prefix_tokens": 57, "new_tokens": 200},
        "fill a sequence of 64 already; use fewer, or give new_tokens": {"prefix_tokens": 64},
    }
    for complaint, generation in complaints.items():
        found = refused(places, calibration={"generation": generation})
        assert list(found) == ["calibration.generation.prefix_tokens"]
        assert complaint in found["calibration.generation.prefix_tokens"]
    assert admitted(places, calibration={"generation": {"prefix_tokens": 63}})
    assert admitted(places, calibration={"generation": {"prefix_tokens": 56, "new_tokens": 200}})


def test_an_override_that_names_no_pruned_layer_is_refused_with_an_example_of_a_name(places):
    found = refused(
        places,
        method="wanda",
        sparsity=0.5,
        overrides=[{"layers": "*.q_proj.weight", "dense": True}, {"layers": "layers.0.*", "dense": True}],
    )
    assert list(found) == ["pruning.overrides[1].layers"]
    assert "model.layers.0.self_attn.q_proj.weight" in found["pruning.overrides[1].layers"]


def test_a_pattern_has_to_divide_only_the_layers_that_it_holds_for(places):
    # Widths are 64 and, for the last layer of a block, 96.
    assert "96 inputs of model.layers.0.mlp.down_proj.weight" in refused(places, pattern="3:64")["pruning.pattern"]
    down = "*.down_proj.weight"
    for override in ({"dense": True}, {"sparsity": 0.5}, {"pattern": "1:3"}):
        assert admitted(places, pattern="3:64", overrides=[{"layers": down, **override}])
    found = refused(
        places, pattern="2:4", overrides=[{"layers": "*", "pattern": "1:3"}, {"layers": down, "pattern": "1:5"}]
    )
    assert list(found) == ["pruning.overrides[0].pattern", "pruning.overrides[1].pattern"]


def test_a_job_that_would_prune_nothing_is_refused(places):
    found = refused(places, sparsity=0.5, overrides=[{"layers": "*", "dense": True}])
    assert list(found) == ["pruning.overrides"]


def test_rules_of_every_kind_come_back_together(places):
    found = refused(
        places,
        calibration={"policy": "minimax", "languages": [{"language": "de"}, {"language": "fr"}]},
        method="magnitude",
        sparsity=0.5,
        overrides=[{"layers": "nothing", "dense": True}],
    )
    assert set(found) == {
        "calibration.policy",
        "calibration.languages[1].language",
        "pruning.overrides[0].layers",
    }


def test_a_specification_may_spell_languages_in_any_way_and_shows_their_one_name(places, tmp_path):
    for name in ("he", "zh-Hant-TW", "no"):
        (tmp_path / f"{name}.txt").write_text("".join(f"text, and more of it: {n}\n" for n in range(200)))
    data = spec_data(places[0], tmp_path, tmp_path)
    data["calibration"]["languages"] = [{"language": "iw"}, {"language": "zh-TW", "weight": 3}]
    data["evaluation"]["languages"] = ["nb", "HE", "zh-hant-tw"]
    resolved = admit(data, EVERYWHERE).resolved
    assert resolved.calibration.mix == {"he": 0.25, "zh-Hant-TW": 0.75}
    assert resolved.evaluation.languages == ("no", "he", "zh-Hant-TW")
    assert '"he"' in resolved.model_dump_json()
    assert admit(resolved.model_dump(mode="json"), EVERYWHERE).resolved == resolved


def test_a_refused_language_is_called_as_the_user_spelled_it(places):
    found = refused(
        places, calibration={"languages": [{"language": "iw"}, {"language": "de"}]}, evaluation={"languages": ["zh-TW"]}
    )
    assert set(found) == {"calibration.languages[0].language", "evaluation.languages[0]"}
    assert found["calibration.languages[0].language"].startswith("'iw': the corpus has no file iw.txt")
    assert found["evaluation.languages[0]"].startswith("'zh-TW': the corpus has no file zh-TW.txt")


def test_a_corpus_named_one_level_too_high_is_refused_once_with_the_folders_that_hold_its_languages(places, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(places[1], tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "de.txt").write_text("text")
    found = refused(places, calibration={"corpus": tmp_path.as_uri() + "/"})
    assert set(found) == {"calibration.corpus"}
    assert found["calibration.corpus"].endswith(
        f"in folders of it; did you mean {tmp_path.as_uri()}/one or {tmp_path.as_uri()}/two?"
    )


def test_a_model_that_is_named_again_is_read_again_only_if_a_file_has_changed(places, tmp_path):
    model = shutil.copytree(places[0], tmp_path / "model")
    data, last = spec_data(model, *places[1:]), LastModel()
    first = admit(data, EVERYWHERE, last=last)
    kept = last.checkpoint
    assert admit(data, EVERYWHERE, last=last) == first
    assert last.checkpoint is kept
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidSpecError, match=r"adapter_config\.json is there"):
        admit(data, EVERYWHERE, last=last)
    (model / "adapter_config.json").unlink()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    for _ in range(2):
        with pytest.raises(InvalidSpecError, match="vocab_size 7"):
            admit(data, EVERYWHERE, last=last)
