"""Demand against supply: what is asked for, what is withdrawn, and that neither exceeds what there is to do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secateur_service.capacity.plan import Offer, Plan, plan
from secateur_service.capacity.port import Ticket, TicketState
from secateur_service.records.needs import Capacity, Needs

GB = 10**9
SMALL = Capacity(devices=1, device_bytes=24 * GB, host_bytes=64 * GB, disk_bytes=500 * GB)
LARGE = Capacity(devices=1, device_bytes=80 * GB, host_bytes=256 * GB, disk_bytes=500 * GB)
OFFERS = {"small": Offer(SMALL, 3), "large": Offer(LARGE, 2)}


def needs(device_gb, host_gb=16):
    return Needs(
        host_bytes=1000 * GB, disk_bytes=10 * GB, device_bytes=device_gb * GB, host_bytes_beside_device=host_gb * GB
    )


def ticket(name, state=TicketState.WAITING):
    return Ticket(name, name.split("-")[0], state)


def made(waiting, *, idle=(), busy=(), tickets=(), uncounted=(), offers=OFFERS):
    return plan(waiting, idle=idle, busy=busy, tickets=tickets, uncounted=uncounted, offers=offers)


def test_an_empty_queue_asks_for_nothing_and_takes_back_what_waits():
    waits, runs = ticket("small-1"), ticket("large-1", TicketState.RUNNING)
    assert made([], tickets=[waits, runs]) == Plan((), (waits,), 0, 0)


def test_a_job_gets_an_agent_of_the_first_class_that_fits():
    assert made([(needs(10), 1), (needs(40), 1)]).request == ("large", "small")


def test_the_order_of_the_classes_decides_not_their_size():
    assert made([(needs(10), 1)], offers={"large": Offer(LARGE, 1), "small": Offer(SMALL, 1)}).request == ("large",)


def test_idle_agents_and_those_on_their_way_count():
    assert made([(needs(10), 3)], idle=[SMALL], tickets=[ticket("small-1", TicketState.RUNNING)]).request == ("small",)


def test_the_most_demanding_job_has_the_first_choice():
    assert made([(needs(10), 1), (needs(40), 1)], idle=[LARGE]).request == ("small",)


def test_an_agent_on_its_way_that_does_not_fit_does_not_count():
    waits = ticket("small-1")
    assert made([(needs(40), 1)], tickets=[waits]) == Plan(("large",), (waits,), 0, 0)


def test_an_agent_that_has_announced_itself_counts_once():
    runs = ticket("small-1", TicketState.RUNNING)
    assert made([(needs(10), 2)], idle=[SMALL], tickets=[runs], uncounted={"small-1"}).request == ("small",)
    assert made([(needs(10), 1)], tickets=[runs], uncounted={"small-1"}).request == ("small",)  # it is busy


def test_no_class_gets_more_agents_than_it_may_have():
    runs = [ticket(f"small-{n}", TicketState.RUNNING) for n in (1, 2)]
    assert made([(needs(10), 9)], tickets=runs, uncounted={"small-1", "small-2"}) == Plan(("small",), (), 0, 8)


def test_requests_that_ended_take_no_room():
    ended = [ticket(f"large-{n}", state) for n, state in enumerate((TicketState.ENDED, TicketState.FAILED))]
    assert made([(needs(40), 9)], tickets=ended).request == ("large", "large")


def test_a_job_that_nothing_fits_is_counted_and_asks_for_nothing():
    assert made([(needs(200), 4)]) == Plan((), (), 4, 0)
    huge = Capacity(devices=1, device_bytes=288 * GB, host_bytes=999 * GB, disk_bytes=500 * GB)
    assert made([(needs(200), 4)], busy=[huge]) == Plan((), (), 0, 0)


def test_a_request_of_a_class_that_is_no_longer_there_is_withdrawn():
    waits = ticket("gone-1")
    assert made([(needs(10), 1)], tickets=[waits]) == Plan(("small",), (waits,), 0, 0)


def test_an_agent_that_turned_out_smaller_serves_only_what_fits_it():
    seen = Capacity(devices=1, device_bytes=24 * GB, host_bytes=8 * GB, disk_bytes=600 * GB)
    offer = OFFERS["small"].limited_to(seen)
    assert offer.capacity == Capacity(devices=1, device_bytes=24 * GB, host_bytes=8 * GB, disk_bytes=500 * GB)
    assert made([(needs(10, host_gb=16), 1)], offers={"small": offer, "large": OFFERS["large"]}).request == ("large",)


STATES = st.sampled_from(TicketState)
TICKETS = st.lists(st.tuples(st.sampled_from(["small", "large"]), STATES), max_size=12)


@given(
    waiting=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)), max_size=6),
    idle=st.lists(st.sampled_from([SMALL, LARGE]), max_size=5),
    tickets=TICKETS,
)
def test_what_is_asked_for_is_needed_allowed_and_settles(waiting, idle, tickets):
    before = [ticket(f"{name}-{number}", state) for number, (name, state) in enumerate(tickets)]
    demand = [(needs(device_gb), jobs) for device_gb, jobs in waiting]
    first = made(demand, idle=idle, tickets=before)
    assert len(first.request) <= sum(jobs for _, jobs in demand)
    for name, offer in OFFERS.items():
        alive = [t for t in before if t.agent_class == name and t.state in (TicketState.WAITING, TicketState.RUNNING)]
        assert first.request.count(name) <= max(0, offer.most_agents - len(alive))
    assert set(first.withdraw) <= {t for t in before if t.state is TicketState.WAITING}
    # When what was planned is done, a second round has nothing to ask for but what the withdrawn made room for.
    after = [t for t in before if t not in first.withdraw]
    after += [ticket(f"{name}-{100 + number}") for number, name in enumerate(first.request)]
    second = made(demand, idle=idle, tickets=after)
    assert second.withdraw == ()
    assert len(second.request) <= len(first.withdraw)
