"""A short campaign; the long one is `make campaign`."""

import random

from faults.campaign import Campaign


def test_no_promise_is_broken_under_random_faults(tmp_path):
    campaign = Campaign(tmp_path, {}, seed=random.randrange(10**6))
    try:
        campaign.run(jobs=2, kills=4)
        assert campaign.violations() == []
        assert campaign.faults == 4
    finally:
        campaign.close()
