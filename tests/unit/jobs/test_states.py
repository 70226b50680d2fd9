from secateur_service.jobs.states import TRANSITIONS, JobState


def test_every_state_has_its_transitions_and_every_one_but_the_first_is_reached():
    assert TRANSITIONS.keys() == set(JobState)
    assert set.union(*(set(targets) for targets in TRANSITIONS.values())) == set(JobState)


def test_exactly_the_ends_are_terminal():
    assert {state for state in JobState if state.is_terminal} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
