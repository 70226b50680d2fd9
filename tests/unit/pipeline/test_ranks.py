import threading

import torch

from secateur_service.pipeline.team import connect
from support.forking import ForkedProcess

SIZES = 196_608, 1024


def read_in_two_threads(rank, folder):
    """What two processes do that begin with different reads, each in a thread of its own: 0 aside, 1 here."""
    ranks = connect(rank, 2, folder, lambda _: None, lambda error: error)
    ranks.begin()
    tensors = [torch.full((size,), owner + 1, dtype=torch.uint8) * (owner == rank) for owner, size in enumerate(SIZES)]
    begun = [threading.Event(), threading.Event()]

    def parts(number):
        if number != rank:
            begun[rank].wait()
        yield tensors[number], number
        begun[number].set()  # the exchange before it has been begun

    aside = threading.Thread(target=ranks.exchange_read, args=[parts(0)])
    aside.start()
    ranks.exchange_read(parts(1))
    aside.join()
    raise SystemExit(0 if [set(tensor.tolist()) for tensor in tensors] == [{1}, {2}] else 3)


def test_what_the_pass_reads_and_what_is_read_ahead_need_no_common_order(tmp_path):
    """A block that an earlier attempt has finished is read while the next dense one is."""
    logs = [tmp_path / str(rank) for rank in range(2)]
    processes = [ForkedProcess(read_in_two_threads, rank, tmp_path, output=log) for rank, log in enumerate(logs)]
    assert [process.wait() for process in processes] == [0, 0], [log.read_text() for log in logs]
