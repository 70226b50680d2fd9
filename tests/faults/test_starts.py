"""The program of slow starts, in small: a real agent, started as a scheduler starts it, with a real worker."""

from faults import starts


def test_a_job_runs_on_an_agent_that_is_started_as_a_scheduler_starts_it(tmp_path):
    found = starts.run(tmp_path, jobs=1, agents=1, loops=0, delay_seconds=1.0, lease_seconds=60.0)
    assert (found.well, found.charged, found.codes) == (1, 0, [0])
    assert len(found.starts) == 1
    assert found.starts[0] >= 1.0
