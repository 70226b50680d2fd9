"""A real worker that fails at a fault point: `worker.py POINT=ACTION ... --job ... --attempt ... --slot ...`.

The n-th pair is for the n-th attempt: further attempts go well. Actions: `kill`, `stop` (until somebody continues it),
`wait` (a second each time), `disk-full`.
"""

import argparse
import os
import signal
import sys
import time

from secateur_service import faults
from secateur_service.execution.worker import run_attempt
from secateur_service.settings import Settings


def disk_full():
    raise OSError(28, "No space left on device")


ACTIONS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "disk-full": disk_full,
    "wait": lambda: time.sleep(1),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", nargs="*")
    parser.add_argument("--job")
    parser.add_argument("--attempt", type=int)
    parser.add_argument("--slot", type=int)
    given = parser.parse_args()
    if given.attempt <= len(given.faults):
        point, action = given.faults[given.attempt - 1].split("=")
        faults.arm(point, ACTIONS[action])
    return run_attempt(Settings(), given.job, given.attempt, given.slot)


if __name__ == "__main__":
    sys.exit(main())
