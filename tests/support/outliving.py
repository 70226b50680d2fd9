"""A plugin of pytest: no process outlives its test (`support.processes`)."""

import pytest

from support import processes


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    if fixturedef.scope == "function":
        return (yield)
    with processes.shared():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    try:
        return (yield)
    finally:
        left = processes.leftovers(of_all_tests=nextitem is None)
        if left:
            pytest.fail("processes outlived the test; end them in it: " + "; ".join(left))
