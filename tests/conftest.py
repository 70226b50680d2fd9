"""Fixtures that tests of several folders use, and what holds for all tests: no process outlives its own."""

import gc
import os

import pytest
from hypothesis import settings

from servers import authority, database_url, postgres, s3_server
from support import leaks, outliving, processes

# Read when torch is loaded. Tiny models gain nothing from threads, and several tests run side by side; threads that
# spin while they wait make them ten times slower on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A test that is slow on a busy machine is not wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

__all__ = ["authority", "database_url", "postgres", "s3_server"]


@pytest.fixture(scope="session", autouse=True)
def _no_secret_leaves_a_process(tmp_path_factory):
    """Fails at the end of the run (of each of xdist's workers) with the places where a secret of the tests is."""
    found = leaks.Found()
    ends = [leaks.watch_processes(found), leaks.watch_calls(found)]
    yield found
    for end in ends:
        end()
    places = [*found.places, *map(str, leaks.search(tmp_path_factory.getbasetemp()))]
    assert not places, "secrets of the tests have left a process:\n" + "\n".join(places)


@pytest.fixture(autouse=True)
def _test_of_a_leak(_no_secret_leaves_a_process, request):
    _no_secret_leaves_a_process.test = request.node.nodeid


def pytest_configure(config):
    gc.disable()  # until the tests and their libraries are loaded, which are no garbage
    processes.guard()
    config.pluginmanager.register(outliving)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no other process waits for one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
