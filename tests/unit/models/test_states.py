import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secateur_service.models.states import in_file

FULL = """
import resource, sys
from pathlib import Path
import torch
from secateur_service.models.states import in_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
in_file(torch.ones(10_000), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_in_a_file_are_what_they_were_and_can_be_changed(tmp_path, dtype):
    states = torch.randn(3, 5, 7).to(dtype)
    kept = in_file(states, tmp_path)
    assert torch.equal(kept, states)
    assert (kept.dtype, kept.shape, kept.is_contiguous()) == (dtype, states.shape, True)
    kept.zero_()
    assert not torch.equal(kept, states)


def test_they_lie_in_a_mapped_file_without_a_name_for_as_long_as_they_live(tmp_path):
    def mapped():
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    kept = in_file(torch.ones(100_000), tmp_path)
    assert mapped() == 1
    assert list(tmp_path.iterdir()) == []
    assert float(kept.sum()) == 100_000
    del kept
    assert mapped() == 0


def test_a_disk_without_room_is_an_error_and_not_the_end_of_the_process(tmp_path):
    ended = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, "killed by a signal"
    assert "OSError" in ended.stderr
