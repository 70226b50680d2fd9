"""Blocks are written in the background: how many at once, in which order, and what is left when one fails."""

import threading
import weakref

import pytest
import torch

from secateur_service.errors import CancelledError
from secateur_service.models.safetensors import OutputTensor, read_header
from secateur_service.models.tensors import TensorReader, output_tensor
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.write_behind import BlockWriter


def values(index):
    return torch.full((4, 4), float(index))


class Held:
    """The content of a block that is not handed out before it is let go."""

    def __init__(self, index):
        self.index, self.begun, self.go = index, threading.Event(), threading.Event()

    def output(self):
        def pieces():
            self.begun.set()
            assert self.go.wait(30)
            yield from output_tensor("w", values(self.index)).chunks

        return OutputTensor("w", "F32", (4, 4), pieces())


def submit(writer, index, outputs):
    writer.submit(index, outputs, (), {}, 0.0, {}, None)


@pytest.fixture
def observer():
    return RecordingObserver()


@pytest.fixture
def ledger(tmp_path_factory):
    return FileLedger(tmp_path_factory.mktemp("ledger") / "ledger.json")


def writer_to(folder, ledger, observer, at_once=1):
    return BlockWriter(Shards(folder), "fingerprint", ledger, observer, Stopwatch(), at_once)


def background_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("write-")]


@pytest.mark.parametrize("at_once", [1, 2])
def test_blocks_beyond_those_in_memory_wait_and_all_are_recorded_in_order(at_once, tmp_path, ledger, observer):
    held = [Held(index) for index in range(4)]
    given = []

    def submit_all():
        with writer_to(tmp_path, ledger, observer, at_once) as writer:
            for each in held:
                submit(writer, each.index, [each.output()])
                given.append(each.index)

    thread = threading.Thread(target=submit_all)
    thread.start()
    for each in held[:at_once]:
        assert each.begun.wait(30)
    thread.join(0.3)
    assert given == list(range(at_once))
    assert not held[at_once].begun.is_set()
    for each in reversed(held):
        each.go.set()
    thread.join(30)
    assert [record.index for record in ledger.entries()] == [0, 1, 2, 3]
    for record in ledger.entries():
        [info] = read_header(tmp_path / record.shard).values()
        assert torch.equal(TensorReader().read(info), values(record.index))
    assert not background_threads()


def test_a_block_is_out_of_memory_once_it_is_in_its_file(tmp_path, ledger, observer):
    with writer_to(tmp_path, ledger, observer) as writer:
        tensor = values(0)
        freed = weakref.ref(tensor)
        outputs = [output_tensor("w", tensor)]
        del tensor
        submit(writer, 0, outputs)
        writer.settle(wait=True)
        assert outputs == []
        assert freed() is None


def test_a_block_that_cannot_be_written_is_told_and_leaves_no_file_and_no_thread(tmp_path, ledger, observer):
    def failing():
        yield b"\0" * 32
        raise OSError(28, "No space left on device")

    def run():
        with writer_to(tmp_path, ledger, observer) as writer:
            submit(writer, 0, [output_tensor("w", values(0))])
            submit(writer, 1, [OutputTensor("w", "F32", (4, 4), failing())])
            for index in range(2, 5):
                submit(writer, index, [output_tensor("w", values(index))])

    with pytest.raises(OSError, match="No space"):
        run()
    assert [record.index for record in ledger.entries()] == [0]
    assert not list(tmp_path.glob("*.partial"))
    assert not background_threads()


def test_values_that_are_not_finite_stop_the_job_with_the_name_of_the_weight(tmp_path, ledger, observer):
    def run():
        with writer_to(tmp_path, ledger, observer) as writer:
            submit(writer, 0, [output_tensor("model.layers.0.w", values(torch.inf))])

    with pytest.raises(FloatingPointError, match=r"^model\.layers\.0\.w holds 16 values"):
        run()
    assert (list(ledger.entries()), list(tmp_path.iterdir())) == ([], [])


def test_a_stopped_job_waits_for_no_room_and_keeps_the_blocks_it_gave(tmp_path, ledger, observer):
    held = Held(0)

    def stop():
        held.go.set()
        raise CancelledError("stopped")

    def run():
        with writer_to(tmp_path, ledger, observer) as writer:
            submit(writer, 0, [held.output()])
            assert held.begun.wait(30)
            observer.check = stop
            submit(writer, 1, [output_tensor("w", values(1))])

    with pytest.raises(CancelledError):
        run()
    assert [record.index for record in ledger.entries()] == [0]
    assert not background_threads()


def test_the_time_of_every_thread_is_that_of_the_background(tmp_path, ledger, observer):
    stopwatch = Stopwatch()
    with (
        BlockWriter(Shards(tmp_path), "fingerprint", ledger, observer, stopwatch) as writer,
        stopwatch.measure("prune"),
    ):
        submit(writer, 0, [output_tensor("w", torch.zeros(8 << 20))])
        writer.settle(wait=True)
    cpu = stopwatch.totals()[1]
    assert cpu["write"] > 0
    assert cpu["prune"] < cpu["write"]
