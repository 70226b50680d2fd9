"""Which accelerators a process sees, as a small program says that stands where `nvidia-smi` is looked for."""

from pathlib import Path

import pytest

from secateur_service.agent import with_devices
from secateur_service.executors.locks import slot_locks
from secateur_service.settings import Settings
from secateur_service.sizing import accelerators
from secateur_service.sizing.accelerators import Accelerator, visible
from secateur_service.sizing.slots import Slots

SMALL, LARGE = Accelerator("GPU-aaaa", 24 << 30), Accelerator("GPU-bbbb", 80 << 30)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Says that there are two GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 0, GPU-aaaa, 24576\necho 1, GPU-bbbb, 81920\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    accelerators._present.cache_clear()
    yield
    accelerators._present.cache_clear()


@pytest.fixture
def no_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    accelerators._present.cache_clear()
    yield
    accelerators._present.cache_clear()


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        (None, (SMALL, LARGE)),
        ("1", (LARGE,)),
        ("1,0", (LARGE, SMALL)),
        ("GPU-bb", (LARGE,)),
        ("GPU-", ()),
        ("", ()),
        ("-1", ()),
        ("0,7,1", (SMALL,)),  # CUDA ignores what follows one that is not there
        ("MIG-cccc", (Accelerator("MIG-cccc"),)),
    ],
)
def test_a_process_sees_what_it_is_given(listed, seen):
    assert visible({} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}) == seen


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_nothing_is_seen_whatever_is_listed():
    assert visible({"CUDA_VISIBLE_DEVICES": "0"}) == ()


@pytest.mark.usefixtures("driver")
def test_a_slot_has_the_memory_of_its_own_device(tmp_path, monkeypatch):
    assert Slots.of(tmp_path, ["cuda:0"]).capacity().device_bytes == SMALL.memory_bytes
    assert Slots.of(tmp_path, ["cuda:0", "cuda:1"]).capacity().device_bytes == LARGE.memory_bytes
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Slots.of(tmp_path, ["cuda"]).capacity().device_bytes == LARGE.memory_bytes
    assert Slots.of(tmp_path, ["cpu"]).capacity().devices == 0


def names(devices, **environment):
    return [path.name for path in slot_locks(Path("/data"), devices, environment)]


@pytest.mark.usefixtures("driver")
def test_slots_of_several_processes_are_the_same_where_they_are_on_one_device_and_only_there():
    assert names(["cuda:0", "cuda:1"]) == ["GPU-aaaa.lock", "GPU-bbbb.lock"]
    assert names(["cuda:0"], CUDA_VISIBLE_DEVICES="1") == ["GPU-bbbb.lock"]
    assert names(["cuda"], CUDA_VISIBLE_DEVICES="GPU-bbbb") == ["GPU-bbbb.lock"]
    assert names(["cuda:0", "cuda:0", "cpu", "cpu"]) == ["GPU-aaaa.lock", "GPU-aaaa.1.lock", "cpu.lock", "cpu.1.lock"]


@pytest.mark.usefixtures("no_driver")
def test_what_nothing_tells_of_is_called_as_it_is_listed():
    assert names(["cuda:1", "mps"], CUDA_VISIBLE_DEVICES="5,3") == ["cuda-3.lock", "mps.lock"]
    assert names(["cuda:1"]) == ["cuda-1.lock"]


@pytest.mark.usefixtures("driver")
def test_an_agent_has_a_slot_for_each_gpu_that_it_sees_unless_it_is_told_which(tmp_path):
    plain = Settings(data_dir=tmp_path)
    assert with_devices(plain, {}).devices == ("cuda:0", "cuda:1")
    assert with_devices(plain, {"CUDA_VISIBLE_DEVICES": "1"}).devices == ("cuda:0",)
    assert with_devices(plain, {"CUDA_VISIBLE_DEVICES": ""}).devices == ("cpu",)
    told = Settings(data_dir=tmp_path, devices=("cuda:1",))
    assert with_devices(told, {}).devices == ("cuda:1",)
    with pytest.raises(ValueError, match=r"cuda:1, and this process sees 1 GPUs \(CUDA_VISIBLE_DEVICES=0\)"):
        with_devices(told, {"CUDA_VISIBLE_DEVICES": "0"})
    with pytest.raises(ValueError, match=r"SECATEUR_DEVICES.*leave it out"):
        with_devices(Settings(data_dir=tmp_path, devices=()), {})


@pytest.mark.usefixtures("no_driver")
def test_an_agent_on_a_machine_without_gpus_has_one_slot_on_its_cpu(tmp_path, monkeypatch):
    assert with_devices(Settings(data_dir=tmp_path), {"CUDA_VISIBLE_DEVICES": "0"}).devices == ("cpu",)
    monkeypatch.setenv("SECATEUR_DEVICES", "cpu,cpu")
    assert with_devices(Settings(data_dir=tmp_path), {}).devices == ("cpu", "cpu")
