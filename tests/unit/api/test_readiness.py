"""A replica is ready unless results can never be written as it is."""

import pytest

from secateur_service.api.readiness import Readiness
from secateur_service.errors import PermanentError, ResourceError, TransientError


@pytest.mark.asyncio
async def test_only_what_waiting_does_not_mend_makes_a_replica_unready():
    outcomes = [None, TransientError("down"), ResourceError("full"), PermanentError("denied"), PermanentError("denied")]
    outcomes += [TransientError("down"), PermanentError("no bucket"), None]
    shown, tries = [], iter(outcomes)

    def check():
        outcome = next(tries)
        if outcome is not None:
            raise outcome

    async def show(ready):
        shown.append(ready)

    readiness = Readiness(check, show, pause_seconds=0)
    seen = []
    for _ in outcomes:
        await readiness.look()
        seen.append(shown[-1] if shown else True)
    assert seen == [True, True, True, False, False, True, False, True]
    assert shown == [False, True, False, True]
