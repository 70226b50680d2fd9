"""Jobs that go on block by block as a test lets them, so that they are where it wants them however fast a machine is.

While there is a file `held` in a folder, a worker waits behind every block that it has recorded, until there is a file
`step`, which it removes. Forked commands take the folder from the variable TESTS_PACE; the workers of a real service
look into its data folder where `PACED` is part of its settings (`paced/sitecustomize.py`).
"""

import contextlib
import os
import time
from pathlib import Path

from secateur_service import faults

_HERE = Path(__file__).parent
PACED = {"PYTHONPATH": os.pathsep.join([str(_HERE / "paced"), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])}


class Pace:
    """The test's side."""

    def __init__(self, folder):
        self.folder = folder

    def hold(self):
        (self.folder / "held").touch()

    def step(self):
        """Returns nothing, so that `until(lambda: condition() or pace.step())` goes on step by step."""
        (self.folder / "step").touch()

    def let_go(self):
        (self.folder / "held").unlink(missing_ok=True)


def arm(folder):
    """The worker's side."""

    def wait():
        while (folder / "held").exists():
            with contextlib.suppress(FileNotFoundError):
                (folder / "step").unlink()
                return
            time.sleep(0.01)

    faults.arm("block.recorded", wait)
