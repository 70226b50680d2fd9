"""What a slot has against what a job needs: refused only where it certainly cannot run."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.admission import AccessPolicy, admit
from secateur_service.admission.access import hardware_of
from secateur_service.admission.room import check_processes, check_room, needs_of
from secateur_service.errors import InvalidSpecError, ResourceError
from secateur_service.models.opening import open_checkpoint
from secateur_service.records.needs import Capacity
from secateur_service.records.result import Available, Bound
from secateur_service.settings import Settings
from secateur_service.sizing.dividing import hardware_for
from secateur_service.sizing.durations import MEASURED_DISK, UNKNOWN, Disk, Hardware
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sizing.preflight import find_room
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


def admitted(places, slots=None, hardware=UNKNOWN, execution=None, shrink=None, elsewhere=(), **evaluation):
    data = spec_data(*places) | {"execution": execution or {}, "shrink": shrink}
    data["evaluation"] |= evaluation
    policy = AccessPolicy(SOURCES, None, on_device=False, slots=slots, elsewhere=elsewhere, hardware=hardware)
    return admit(data, policy)


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
    shown = admitted(places, Machine(4 * GIB, None, Path("/")), Hardware(threads=2)).estimate
    assert shown.slot.host_bytes == 4 * GIB
    assert set(shown.seconds) == {"one NVIDIA H100", "2 CPU cores"}


def test_a_job_that_an_agent_elsewhere_has_room_for_is_let_in_with_a_warning(places):
    little, needs = Machine(1 << 20, None, Path("/")), admitted(places).needs
    there = Capacity(0, 0, needs.host_bytes, needs.disk_bytes)
    admission = admitted(places, little, elsewhere=[there])
    assert admission.needs == needs
    (warning,) = (warning for warning in admission.estimate.warnings if warning.startswith("model.uri"))
    assert "not in a slot of this server: the job is expected to need" in warning
    with pytest.raises(InvalidSpecError, match="choose a smaller model or a larger machine"):
        admitted(places, little, elsewhere=[replace(there, host_bytes=needs.host_bytes - 1)])


def sizes(needed):
    """Amounts on both sides of one, and the nearest."""
    return st.one_of(st.integers(0, 2 * needed), st.sampled_from([needed - 1, needed, needed + 1]))


@pytest.mark.parametrize("preset", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_job_fits_where_admission_and_the_worker_find_room_and_nowhere_else(places, preset, on_device):
    admission = admitted(places, continuations=0)
    spec = admission.resolved.model_copy(
        update={"pruning": admission.resolved.pruning.model_copy(update={"method": preset})}
    )
    checkpoint = open_checkpoint(places[0])
    needs = needs_of(checkpoint, spec, plan=None)
    cost = cache(partial(estimate_cost, checkpoint, spec, on_device=on_device))
    host = needs.host_bytes_beside_device if on_device else needs.host_bytes

    @given(sizes(host), sizes(needs.device_bytes))
    def check(host_bytes, device_bytes):
        there = Available(host_bytes, max(1, device_bytes) if on_device else None, 1 << 50)
        capacity = Capacity(int(on_device), there.device_bytes or 0, there.host_bytes, there.disk_bytes)
        try:
            find_room(lambda shortages: cost(shortages=shortages), there, on_device=on_device)
        except ResourceError:
            assert not needs.fits(capacity)
        else:
            assert needs.fits(capacity)

    check()


def test_a_machine_takes_every_job_that_it_lets_in_also_with_a_warning(places):
    machine = Machine(admitted(places).needs.host_bytes, None, Path("/"))
    warned = admitted(places, machine)
    assert any("memory may not suffice" in warning for warning in warned.estimate.warnings)
    assert warned.needs.fits(machine.capacity())
    with pytest.raises(InvalidSpecError):
        admitted(places, replace(machine, host_bytes=machine.host_bytes - 1))


def test_needs_do_not_depend_on_where_a_job_is_submitted(places):
    data = spec_data(*places)
    policies = [AccessPolicy(SOURCES, None, on_device=it, runs_jobs=it) for it in (False, True)]
    at_a_cpu, at_a_device = (admit(data, policy).needs for policy in policies)
    assert at_a_cpu == at_a_device
    assert 0 < at_a_cpu.device_bytes < at_a_cpu.host_bytes
    assert at_a_cpu.disk_bytes > 0 < at_a_cpu.host_bytes_beside_device


def test_the_time_follows_what_the_settings_say_of_cores_and_disks(places):
    slow = Settings(devices=("cpu",), threads_per_worker=2, processes_per_worker=3, read_bytes_per_second=1)
    assert hardware_of(slow) == Hardware(2, 3, disk=Disk(1, MEASURED_DISK.written_bytes))
    shown = admitted(places, hardware=hardware_of(slow)).estimate
    assert shown.bounds == dict.fromkeys(("one NVIDIA H100", "6 CPU cores"), Bound.READING)
    assert min(shown.seconds.values()) > shown.checkpoint_bytes
    for devices in ((), ("cuda:0",)):
        assert hardware_of(Settings(devices=devices, threads_per_worker=2)) == Hardware()


SLOTS = Machine(4 * GIB, None, Path("/"))


@pytest.mark.parametrize(("asked", "cores", "said"), [(None, 8, ""), (2, 4, ""), (8, 8, "in 4 at most here")])
def test_a_job_runs_in_as_many_processes_as_it_asks_for_and_the_operator_allows(places, asked, cores, said):
    estimate = admitted(places, SLOTS, Hardware(2, 4), execution={"processes": asked}).estimate
    assert f"{cores} CPU cores" in estimate.seconds
    told = [warning for warning in estimate.warnings if warning.startswith("execution.processes: ")]
    assert len(told) == bool(said)
    assert said in "".join(told)


def test_a_job_that_becomes_smaller_is_divided_too_and_one_on_an_accelerator_is_not(places):
    asked = {"execution": {"processes": 2}, "shrink": {"blocks": {"remove": 1}}}
    estimate = admitted(places, SLOTS, Hardware(2, 4), **asked).estimate
    assert "4 CPU cores" in estimate.seconds
    assert not any("processes" in warning for warning in estimate.warnings)
    spec = admitted(places, SLOTS, Hardware(2, 4), **asked).resolved
    assert hardware_for(Hardware(2, 4), spec, on_device=True).processes == 1
    (said,) = check_processes(spec, 4, on_device=True)
    assert (said.field, said.description) == (
        "execution.processes",
        "the job runs as one process: several processes compute on CPUs only; leave it out",
    )
