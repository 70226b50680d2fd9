"""Fixtures that tests of several folders use."""

import os

from servers import s3_server

# Read when torch is loaded: threads that spin while they wait make tests ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["s3_server"]
