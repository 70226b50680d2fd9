"""Sequences with shared beginnings, streamed a block at a time, against each of them alone in the whole model."""

from itertools import islice

import pytest
import torch

from secateur_service.models.branches import TokenSequence, branch, may_share
from secateur_service.models.measurements import TargetScores
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from support.configurations import marked
from support.models import CONFIGS, build_model

GENERATOR = torch.Generator().manual_seed(0)


def random_tokens(count):
    return tuple(torch.randint(2, 250, (count,), generator=GENERATOR).tolist())


def questions():
    """Sequences of questions with several answers, and some with one or without a question."""
    sequences = []
    for length, answers in ((20, (3, 5, 1)), (21, (2, 4)), (40, (6, 1, 1)), (3, (4, 4)), (30, (5,))):
        question = random_tokens(length)
        sequences += [TokenSequence(question + random_tokens(answer), answer + 1) for answer in answers]
    return [*sequences, TokenSequence(random_tokens(7), 7)]


def scores_of(streamed, states, targets):
    """What each of the targets is predicted with by the state in its place, and whether it is the most probable."""
    scores = TargetScores(states, torch.arange(len(targets)), targets)
    streamed.head.measure([scores])
    return scores.found()


@pytest.mark.parametrize("name", marked(CONFIGS))
def test_scores_equal_those_of_the_whole_model(name, tmp_path):
    model = build_model(name)
    model.save_pretrained(tmp_path)
    sequences = questions()
    streamed = StreamedModel(open_checkpoint(tmp_path), torch.device("cpu"), torch.float32)
    shares = may_share(streamed.checkpoint.config, streamed.checkpoint.architecture)
    batches = branch(sequences, 128, shares=shares)
    assert any(batch.shared for batch in batches) == shares
    states = streamed.embed([], batches)
    for index in range(streamed.num_blocks):
        with streamed.block(index) as block:
            waiting = iter(states)
            states = [
                state
                for batch in batches
                for state in streamed.run_branches(block, index, batch, list(islice(waiting, len(batch.parts))))
            ]
    rests_of = [rests for batch in batches for rests in ([None] if batch.shared else []) + list(batch.rests)]
    for rests, part in zip(rests_of, states, strict=True):
        if rests is None:
            continue
        for row, number in enumerate(rests.numbers):
            sequence, length = sequences[number], rests.lengths[row]
            needed = part[row, length - sequence.needed : length]
            targets = torch.tensor(random_tokens(sequence.needed))
            got, greedy = scores_of(streamed, needed, targets)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([sequence.tokens]), use_cache=False).logits[0].float()
            expected = logits[-sequence.needed :].log_softmax(-1)
            torch.testing.assert_close(got.float(), expected.gather(1, targets[:, None])[:, 0], rtol=1e-4, atol=2e-4)
            assert torch.equal(greedy, expected.argmax(-1) == targets)
            _, best = scores_of(streamed, needed, expected.argmax(-1))
            assert best.all()


def test_batches_hold_every_sequence_once_with_little_padding():
    lengths = torch.randint(4, 40, (300,), generator=GENERATOR).tolist()
    questions = [random_tokens(length) for length in torch.randint(5, 200, (60,), generator=GENERATOR).tolist()]
    sequences = [
        TokenSequence(questions[number % 60] + random_tokens(length), length + 1)
        for number, length in enumerate(lengths)
    ]
    batches = branch(sequences, 2048)
    assert sorted(number for batch in batches for rests in batch.rests for number in rests.numbers) == [*range(300)]
    for batch in batches:
        for rests in batch.rests:
            for row, number in enumerate(rests.numbers):
                beginning = batch.beginnings[rests.groups[row]].tolist() if batch.shared else []
                rest = rests.tokens[row, : rests.lengths[row]].tolist()
                assert (*beginning, *rest) == sequences[number].tokens
    assert sum(batch.tokens for batch in batches) < 1.35 * (sum(map(len, questions)) + sum(lengths))
    assert all(batch.tokens < 1.2 * 2048 for batch in batches)
