"""A short campaign; the long one is `make campaign`."""

import random

import pytest

from faults.campaign import METHODS, Campaign
from faults.surroundings import KINDS
from servers import postgres_folder


@pytest.mark.parametrize("kind", ["postgresql" if postgres_folder() else "sqlite"])
def test_no_promise_is_broken_under_random_faults(tmp_path, kind):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with KINDS[kind](tmp_path, rng) as around:
        campaign = Campaign(tmp_path, around, rng, blocks=6, methods=rng.sample(METHODS, 2), started=False)
        try:
            campaign.run(jobs=2, kills=3, under_way=2)
            assert campaign.violations() == []
            assert campaign.kills == 3
        finally:
            campaign.close()
