"""The specification of a retry that changes something."""

from types import SimpleNamespace

import pytest

import secateur
from secateur._changes import changed_spec
from secateur._spec import spec_mapping, spec_message

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def job():
    """A job as the service answers it: what was asked for, and what that was found to be."""
    asked = {
        "model": {"uri": "hf://org/m"},
        "calibration": {"corpus": "hf://datasets/org/c", "languages": {"de": 0.7, "en": 0.3}},
        "pruning": {"method": "wanda", "pattern": "2:4"},
    }
    resolved = {
        **asked,
        "model": {"uri": "hf://org/m", "revision": COMMIT},
        "calibration": {**asked["calibration"], "corpus": f"hf://datasets/org/c@{COMMIT}", "samples": 128},
        "evaluation": {"corpus": f"hf://datasets/org/c@{COMMIT}"},
    }
    return SimpleNamespace(spec=spec_mapping(spec_message(asked)), resolved_spec=resolved)


def test_what_is_set_changes_and_model_and_text_stay_those_that_were_found():
    spec = changed_spec(job(), {"pruning.pattern": None, "pruning.sparsity": 0.4, "limits.languages": {"uk": 0.05}})
    assert spec["pruning"] == {"method": "wanda", "sparsity": 0.4}
    assert spec["limits"] == {"languages": {"uk": 0.05}}
    assert spec["model"] == {"uri": "hf://org/m", "revision": COMMIT}
    assert spec["calibration"]["corpus"] == spec["evaluation"]["corpus"] == f"hf://datasets/org/c@{COMMIT}"
    assert "samples" not in spec["calibration"], "a default is found again, as it may depend on what changed"
    spec_message(spec)


@pytest.mark.parametrize("field", ["model.uri", "model", "model.revision"])
def test_another_model_is_not_held_to_the_commit_of_the_old_one(field):
    value = {"uri": "hf://org/m2"} if field == "model" else "hf://org/m2" if field == "model.uri" else "main"
    assert COMMIT not in changed_spec(job(), {field: value})["model"].values()


def test_a_path_that_cannot_be_one_is_refused_by_name():
    with pytest.raises(secateur.InvalidSpecError) as caught:
        changed_spec(job(), {"pruning.method.x": 1, "pruning..y": 2})
    assert [fault.field for fault in caught.value.violations] == ["pruning.method.x", "pruning..y"]


def test_the_job_itself_stays_as_it_is():
    before = job()
    changed_spec(before, {"pruning.method": "magnitude"})
    assert before.spec == job().spec
