"""The run on Ray in small, where there is a Ray; the long one is `make ray-check`."""

import pytest

from faults.on_ray import OnRay, surroundings
from faults.ray_cluster import ray_environment


def test_jobs_on_a_real_ray_cluster_survive_the_loss_of_a_node_an_agent_and_the_head(tmp_path):
    ray = ray_environment() or pytest.skip("RAY_ENVIRONMENT names no environment that has Ray: see `make ray-check`")
    with surroundings(tmp_path) as (objects, settings):
        run = OnRay(tmp_path, ray, objects, settings)
        try:
            run.run(8)
            assert run.violations() == []
        finally:
            run.close()
