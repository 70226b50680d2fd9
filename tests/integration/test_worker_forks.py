"""What stands in for a worker's process in tests ends as it does, and whatever befalls it leaves the others alone."""

import os
import random
import subprocess
import time

from support.waiting import HANG_SECONDS
from support.worker_forks import stand_in


def command(tmp_path):
    environment = {**os.environ, "SECATEUR_DATA_DIR": str(tmp_path / "no store"), "SECATEUR_DEVICES": "cpu"}
    return [*stand_in(), "--job", "x", "--attempt", "1", "--slot", "0"], environment


def test_one_that_is_killed_at_any_moment_does_not_hinder_the_next(tmp_path):
    words, environment = command(tmp_path)
    rng = random.Random(0)
    for _ in range(40):
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert ended.returncode == 11, "as a worker ends that finds no store"
    assert "STORE_UNAVAILABLE" in ended.stdout + ended.stderr
