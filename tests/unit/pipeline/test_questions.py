"""Requests of tasks in a pass: every tensor is read once, and both sides answer as their whole models do."""

import collections

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur_service.models import head
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.pass_config import PassConfig
from secateur_service.pipeline.questions import Questions
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import run_pass
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.patterns import Unstructured
from secateur_service.tasks.requests import Request
from support.models import save_model
from support.passes import samples_of


class CountingReader(TensorReader):
    """Counts how often each tensor is read, in whole or in part."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def read(self, info):
        self.counts[info.name] += 1
        return super().read(info)

    def read_rows(self, info, start, stop):
        self.counts[info.name] += 1
        return super().read_rows(info, start, stop)

    def gather_rows(self, info, rows):
        self.counts[info.name] += 1
        return super().gather_rows(info, rows)


def draw(count, generator):
    return tuple(torch.randint(2, 250, (count,), generator=generator).tolist())


def requests_of():
    """Questions with answers of several tokens and of one, and texts without a question."""
    generator = torch.Generator().manual_seed(0)
    requests = []
    for length in (12, 30, 31, 50):
        question = draw(length, generator)
        requests += [Request(question + draw(answer, generator), answer) for answer in (3, 5, 1, 1)]
    requests += [Request(draw(20, generator), 19), requests[0]]
    return requests


def plainly(model, request):
    """Log-likelihood of a request in a whole model, and whether all its tokens are the most probable ones."""
    tokens = torch.tensor([request.tokens])
    with torch.no_grad():
        logits = model(input_ids=tokens[:, :-1]).logits[0, -request.scored :].double().log_softmax(-1)
    targets = tokens[0, -request.scored :]
    return float(logits.gather(1, targets[:, None]).sum()), bool((logits.argmax(-1) == targets).all())


def answers_of(questions, model, states):
    scores = questions.scores(states)
    model.head.measure(scores)
    return questions.answers(scores)


@pytest.fixture
def passed(tmp_path, monkeypatch):
    """A pass with requests over a model, the reads of its tensors, and the reads of a pass without requests."""
    monkeypatch.setattr(head, "HEAD_SLICE_BYTES", {"cpu": 64 * 4 * 70})  # 70 of its 256 rows
    model = save_model(tmp_path / "model")
    counts, result = [], None
    for name, requests in (("plain", []), ("asked", requests_of())):
        reader = CountingReader()
        streamed = StreamedModel(open_checkpoint(model), torch.device("cpu"), torch.float32, reader)
        (tmp_path / name).mkdir()
        samples = samples_of(["de", "uk"], 4, 64)
        config = PassConfig(
            recipe=Recipe.of("wanda"),
            targets={info.name: Unstructured(0.5) for info in streamed.checkpoint.linear_weights()},
            order="block",
            mix={"de": 0.5, "uk": 0.5},
            calibration=samples,
            evaluation=samples,
            shards=Shards(tmp_path / name),
            requests=requests,
        )
        ledger, observer = FileLedger(tmp_path / name / "ledger.json"), RecordingObserver()
        result = run_pass(streamed, config, ledger, observer, Stopwatch())
        counts.append(reader.counts)
        assert observer.history[-1].fraction == pytest.approx(1, abs=0.01)  # no more was counted in advance
    return model, tmp_path / "asked", result, counts


def test_no_tensor_is_read_more_than_once_whether_or_not_something_is_asked(passed):
    _, _, _, (plain, asked) = passed
    assert asked == plain
    heads = {name: asked.pop(name) for name in [*asked] if "head" in name}
    assert list(heads.values()) == [4]  # every slice once
    assert set(asked.values()) == {1}


def test_both_sides_answer_as_their_whole_models_do(passed):
    folder, shards, result, _ = passed
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pruned = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    from safetensors.torch import load_file

    for record in result.blocks:
        pruned.load_state_dict(load_file(shards / record.shard), strict=False)
    for model, answers in ((dense, result.dense_answers), (pruned, result.pruned_answers)):
        for request, answer in zip(requests_of(), answers, strict=True):
            expected, is_greedy = plainly(model, request)
            assert answer.log_likelihood == pytest.approx(expected, abs=1e-3)
            assert answer.is_greedy == is_greedy


def test_what_requests_share_runs_once(tmp_path):
    model = StreamedModel(open_checkpoint(save_model(tmp_path)), torch.device("cpu"), torch.float32)
    requests = requests_of()
    questions = Questions.of(requests, model)
    assert len(questions.sequences) == 4 * 3 + 1  # answers of one token are scored by one state; and one is asked twice
    alone = sum(len(request.tokens) - 1 for request in requests)
    assert questions.tokens < 0.55 * alone
    again = Questions.of(requests, model)
    assert [each.rests[0].numbers for each in again.branches] == [each.rests[0].numbers for each in questions.branches]


def test_states_that_wait_in_files_give_the_same_answers(tmp_path):
    folder, found = save_model(tmp_path / "model"), []
    for states_folder in (None, tmp_path):
        model = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
        model.states_folder = states_folder
        questions = Questions.of(requests_of(), model)
        states = model.embed([], questions.branches)
        for index in range(model.num_blocks):
            with model.block(index) as block:
                questions.propagate(model, block, index, states, lambda _: None)
        found.append(answers_of(questions, model, states))
    assert found[0] == found[1]


def test_a_model_that_is_lost_ends_the_job(tmp_path):
    model = StreamedModel(open_checkpoint(save_model(tmp_path)), torch.device("cpu"), torch.float32)
    questions = Questions.of([Request((1, 2, 3), 2)], model)
    states = model.embed([], questions.branches)
    states[-1] = torch.full_like(states[-1], torch.nan)
    with pytest.raises(FloatingPointError, match="log-likelihoods of tasks"):
        answers_of(questions, model, states)
