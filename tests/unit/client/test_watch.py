"""The watch as a pure flow: the test plays the network, step by step."""

import grpc
import pytest

import secateur
from secateur._flow import Call, Contact, Emit, Finished, Open, Receive, Sleep, advance, select
from secateur._watch import Reconnect, watch
from secateur.v1 import prune_job_pb2 as pb
from support.rpc import Refused

JOB = "pruneJobs/j"


class Script:
    """Plays a server whose streams each hold messages and then an error, or None for an end that is OK."""

    def __init__(self, streams, *, job=None, **given):
        self.now = 0.0
        self.streams = iter(streams)
        self.job = job
        self.opened = []
        self.sleeps = []
        self.events = []
        self.cancelled = 0
        self.reconnect = Reconnect(clock=lambda: self.now, jitter=lambda: 1.0, **given)

    def cancel(self):
        self.cancelled += 1
        return True

    def play(self, after=None, **given):
        flow = watch(JOB, after_sequence=after, reconnect=self.reconnect, call_timeout_seconds=9, **given)
        self._play(flow)
        return [event.sequence for event in self.events]

    def _play(self, flow):
        answer, error = None, None
        while not isinstance(step := advance(flow, answer, error), Finished):
            answer, error = None, None
            match step:
                case Open(_, request, _):
                    position = request.after_sequence if request.HasField("after_sequence") else None
                    self.opened.append(position)
                    messages, end = next(self.streams)
                    self.messages = iter([*messages, end])
                    answer = self
                case Receive():
                    answer = next(self.messages)
                    if isinstance(answer, grpc.RpcError):
                        answer, error = None, answer
                case Call():
                    answer = self.job
                case Sleep(seconds):
                    self.sleeps.append(seconds)
                    self.now += seconds
                case Emit(event):
                    self.events.append(event)


def log(sequence):
    return pb.PruneJobEvent(sequence=sequence, log=pb.LogRecord(level="info", message="x"))


def ended(sequence):
    return pb.PruneJobEvent(sequence=sequence, state=pb.StateChange(state=pb.JOB_STATE_SUCCEEDED))


def snapshot(sequence, state=pb.JOB_STATE_RUNNING):
    return pb.PruneJobEvent(sequence=sequence, snapshot=pb.PruneJob(name=JOB, state=state, last_sequence=sequence))


def heartbeat(sequence):
    return pb.PruneJobEvent(sequence=sequence, heartbeat=pb.Heartbeat())


LOST = Refused(grpc.StatusCode.UNAVAILABLE, "socket closed")


def test_a_watch_ends_with_the_terminal_event_and_keeps_heartbeats_to_itself():
    script = Script([([snapshot(3), heartbeat(3), log(4), ended(5)], None)])
    assert script.play() == [3, 4, 5]
    assert (script.opened, script.cancelled) == ([None], 1)


def test_a_snapshot_of_a_job_that_has_ended_is_all_there_is():
    assert Script([([snapshot(9, pb.JOB_STATE_FAILED)], None)]).play() == [9]


def test_a_lost_watch_goes_on_after_the_last_event_without_gap_or_duplicate():
    script = Script([([snapshot(3), log(4)], LOST), ([log(4), log(5)], LOST), ([ended(6)], None)])
    assert script.play() == [3, 4, 5, 6]
    assert script.opened == [None, 4, 5]


def test_a_service_that_is_away_is_told_once_and_once_that_it_is_back(caplog):
    away = [([], LOST)] * 5
    script = Script([([log(1)], LOST), *away, ([log(2), log(3)], LOST), ([ended(4)], None)])
    with caplog.at_level("INFO", logger="secateur"):
        assert script.play(after=0) == [1, 2, 3, 4]
    said = [(record.levelname, record.message.split(",")[0]) for record in caplog.records]
    lost = ("WARNING", "lost the connection while watching pruneJobs/j (socket closed); trying again")
    assert said == [lost, ("INFO", "connected again")] * 2


def test_a_gap_in_the_numbers_is_a_disconnect_and_not_passed_on():
    script = Script([([log(1), log(3)], None), ([log(2), log(3), ended(4)], None)])
    assert script.play(after=0) == [1, 2, 3, 4]
    assert script.opened == [0, 1]


def test_a_stream_that_ends_well_before_the_job_is_a_disconnect():
    running = pb.PruneJob(name=JOB, state=pb.JOB_STATE_RUNNING, last_sequence=1)
    script = Script([([log(1)], None), ([ended(2)], None)], job=running)
    assert script.play(after=0) == [1, 2]


def test_a_watch_that_resumes_after_the_terminal_event_ends_at_once():
    done = pb.PruneJob(name=JOB, state=pb.JOB_STATE_SUCCEEDED, last_sequence=7)
    script = Script([([], None)], job=done)
    assert script.play(after=7) == []
    assert script.sleeps == []


def test_an_event_of_a_kind_that_the_sdk_does_not_know_is_passed_over_but_counted():
    script = Script([([log(1), pb.PruneJobEvent(sequence=2), log(3)], LOST), ([ended(4)], None)])
    assert script.play(after=0) == [1, 3, 4]
    assert script.opened == [0, 3]


def test_waits_double_up_to_their_limit_and_start_anew_after_contact():
    streams = [([], LOST)] * 4 + [([log(1)], LOST), ([ended(2)], None)]
    script = Script(streams, base_seconds=1, max_seconds=4, total_seconds=100)
    script.play(after=0)
    assert script.sleeps == [1, 2, 4, 4, 1]


def test_a_watch_gives_up_after_the_total_time_without_contact_and_says_where_to_go_on():
    script = Script([([log(1)], LOST)] + [([], LOST)] * 50, base_seconds=1, max_seconds=10, total_seconds=60)
    with pytest.raises(secateur.UnavailableError, match="watch it again after event 1") as caught:
        script.play(after=0)
    assert 60 <= script.now <= 71
    assert caught.value.metadata == {"after_sequence": "1"}


REFUSED = Refused(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses: Connection refused")


@pytest.mark.parametrize("first", [([], LOST), ([log(1)], LOST), ([heartbeat(0)], REFUSED)])
def test_a_watch_that_began_at_a_stopping_service_waits_until_it_is_back(first):
    contact = Contact()
    script = Script([first, *[([], REFUSED)] * 20, ([log(1), ended(2)], None)])
    assert script.play(after=0, contact=contact) == [1, 2]
    assert contact.made


def test_a_service_that_nobody_has_met_is_not_waited_for_if_nothing_listens_there():
    script = Script([([], REFUSED)])
    with pytest.raises(secateur.UnavailableError, match="nothing listens there"):
        script.play(after=0, contact=Contact())
    assert script.sleeps == []


def test_a_heartbeat_counts_as_contact():
    streams = [stream for _ in range(30) for stream in (([heartbeat(0)], LOST), ([], LOST))]
    script = Script([*streams, ([ended(1)], None)], base_seconds=1, max_seconds=10, total_seconds=5)
    assert script.play(after=0) == [1]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, secateur.NotFoundError),
        (grpc.StatusCode.OUT_OF_RANGE, secateur.SequenceExpiredError),
        (grpc.StatusCode.UNAUTHENTICATED, secateur.UnauthenticatedError),
        (grpc.StatusCode.UNKNOWN, secateur.ServiceFaultError),
    ],
)
def test_a_refusal_ends_the_watch_at_once(code, error):
    script = Script([([log(1)], Refused(code, "no"))])
    with pytest.raises(error):
        script.play(after=0)
    assert (script.sleeps, script.cancelled) == ([], 1)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED]
)
def test_a_stream_that_was_reset_by_something_between_is_resumed(code):
    assert Script([([log(1)], Refused(code, "reset")), ([ended(2)], None)]).play(after=0) == [1, 2]


def test_a_watch_with_a_time_limit_ends_by_it_even_while_the_service_is_away():
    script = Script([([], LOST)] * 50, base_seconds=1, max_seconds=4)
    with pytest.raises(secateur.WaitTimeoutError, match="within 10 seconds"):
        script.play(after=0, timeout_seconds=10)
    assert script.now == 10


def test_the_stream_is_cancelled_when_the_reader_stops():
    script = Script([([log(1), log(2)], None)])
    flow = watch(JOB, after_sequence=0, reconnect=script.reconnect, call_timeout_seconds=9)
    assert isinstance(advance(flow, None, None), Open)
    assert isinstance(advance(flow, script, None), Receive)
    assert isinstance(advance(flow, log(1), None), Emit)
    flow.close()
    assert script.cancelled == 1


def test_a_selection_keeps_the_resumption_of_the_watch_it_selects_from():
    script = Script([([log(1)], LOST), ([log(2), ended(3)], None)])
    inner = watch(JOB, after_sequence=0, reconnect=script.reconnect, call_timeout_seconds=9)
    script._play(select(inner, wanted=lambda event: event.kind == "log", last=lambda event: event.sequence >= 2))
    assert [event.sequence for event in script.events] == [1, 2]
    assert script.cancelled == 2
