"""Fixtures that tests of several folders use."""

import os

from hypothesis import settings

from servers import authority, database_url, postgres, s3_server

# Read when torch is loaded: threads that spin while they wait make tests ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A test that is slow on a busy machine is not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

__all__ = ["authority", "database_url", "postgres", "s3_server"]
