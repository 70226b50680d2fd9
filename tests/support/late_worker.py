"""A toy worker whose start takes until a file named `begin` is in the data folder: what loading can take under load."""

import os
import runpy
import time
from pathlib import Path

DATA_DIR = Path(os.environ["SECATEUR_DATA_DIR"])

if __name__ == "__main__":
    (DATA_DIR / f"starting-{os.getpid()}").touch()
    while not (DATA_DIR / "begin").exists():
        time.sleep(0.02)
    runpy.run_path(str(Path(__file__).with_name("toy_worker.py")), run_name="__main__")
