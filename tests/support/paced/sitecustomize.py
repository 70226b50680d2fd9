"""Read by every Python of a paced service, see `support.pace`: only its workers are concerned."""

import os
import sys
from pathlib import Path

if "work" in sys.orig_argv:
    from support.pace import arm

    arm(Path(os.environ["SECATEUR_DATA_DIR"]))
