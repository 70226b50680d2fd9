"""`secateur-service serve` whose workers run a toy pipeline (`toy_worker`): `toy_server.py BEHAVIOUR FLAGS ...`."""

import argparse
import sys
from pathlib import Path

from secateur_service import app
from secateur_service.settings import Settings

if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("behaviour")
    for flag in ("--listen", "--metrics-listen", "--data-dir", "--file-root"):
        arguments.add_argument(flag)
    arguments.add_argument("--ready-file", type=Path)
    given = arguments.parse_args()
    settings = Settings(
        listen=given.listen,
        metrics_listen=given.metrics_listen,
        data_dir=given.data_dir,
        file_roots=[given.file_root],
    )
    worker = str(Path(__file__).with_name("toy_worker.py"))
    try:
        app.run(settings, ready_file=given.ready_file, work_command=(sys.executable, worker, given.behaviour))
    except app.CannotStartError as error:
        sys.exit(f"the server cannot start: {error}")
