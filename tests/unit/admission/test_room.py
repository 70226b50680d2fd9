"""What a slot has against what a job needs: refused only where it certainly cannot run."""

from pathlib import Path

import pytest

from secateur_service.admission import AccessPolicy, admit
from secateur_service.admission.room import check_room
from secateur_service.errors import InvalidSpecError
from secateur_service.models.opening import open_checkpoint
from secateur_service.records.result import Available
from secateur_service.settings import Settings
from secateur_service.sizing.slots import Slots
from secateur_service.sources import open_sources
from support.models import save_corpora, save_model, spec_data

SOURCES = open_sources(Settings(), everywhere=True)
GIB = 1 << 30


class Machine(Slots):
    """Slots with a disk of their own size."""

    disk = 1 << 40

    def empty(self):
        return Available(self.host_bytes, self.device_bytes or None, self.disk)

    now = empty


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    return save_model(folder / "model"), *save_corpora(folder)


def admitted(places, slots=None, **evaluation):
    data = spec_data(*places)
    data["evaluation"] |= evaluation
    return admit(data, AccessPolicy(SOURCES, None, on_device=False, slots=slots))


def room(places, *, host=4 * GIB, disk=1 << 40, samples=6, tokens=512, continuations=0):
    """What is found of a job with so much text, whether or not there is any."""
    spec = admitted(places).resolved
    spec = spec.model_copy(
        update={
            "calibration": spec.calibration.model_copy(update={"samples": samples}),
            "evaluation": spec.evaluation.model_copy(
                update={"tokens_per_language": tokens, "continuations": continuations}
            ),
        }
    )
    machine = Machine(host, None, Path("/"))
    object.__setattr__(machine, "disk", disk)
    return check_room(open_checkpoint(places[0]), spec, machine, plan=None, on_device=False)


def value_in(violation):
    return int(violation.description.partition("use at most ")[2].partition(",")[0])


@pytest.mark.parametrize(
    ("field", "asked"),
    [("calibration.samples", {"samples": 10**8}), ("evaluation.tokens_per_language", {"tokens": 10**10})],
)
def test_the_value_that_is_proposed_fits_and_the_next_one_does_not(places, field, asked):
    (violation,) = room(places, disk=GIB, **asked).refused
    assert violation.field == field
    assert " GB" in violation.description
    (name,) = asked
    step = 2 if name == "samples" else 64
    assert not room(places, disk=GIB, **{name: value_in(violation)}).refused
    assert room(places, disk=GIB, **{name: value_in(violation) + step}).refused


def test_a_model_whose_blocks_are_too_large_is_refused_itself(places):
    (violation,) = room(places, host=1 << 20).refused
    assert violation.field == "model.uri"
    assert "choose a smaller model or a larger machine" in violation.description


def test_continuations_and_states_that_wait_on_disk_are_warnings(places):
    little = room(places, host=int(1.25 * GIB), samples=20_000)  # takes 1.7 GiB, and 1.4 without the states
    assert not little.refused
    assert [warning.field for warning in little.warnings] == ["calibration.samples"]
    plenty = room(places)
    assert (plenty.refused, plenty.warnings) == ([], [])
    assert plenty.slot == Available(4 * GIB, None, 1 << 40)


def test_a_replica_without_slots_refuses_nothing_for_its_own_memory(places):
    assert admitted(places).estimate.slot is None
    with pytest.raises(InvalidSpecError, match=r"^model\.uri: the job is expected to need"):
        admitted(places, Machine(1 << 20, None, Path("/")))
    shown = admitted(places, Machine(4 * GIB, None, Path("/"), threads=2)).estimate
    assert shown.slot.host_bytes == 4 * GIB
    assert set(shown.seconds) == {"one NVIDIA H100", "2 CPU cores"}
