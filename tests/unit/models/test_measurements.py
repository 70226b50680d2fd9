"""What is measured while slices of the vocabulary arrive."""

import torch

from secateur_service.models.measurements import Comparison, TargetScores, TokenLosses


def test_of_equally_probable_tokens_the_first_is_the_greedy_one_in_whichever_slice():
    logits = torch.tensor([[1.0, 3.0, 0.0, 3.0, 3.0, 2.0]])
    for target, is_greedy in ((1, True), (3, False), (4, False)):
        scores = TargetScores(torch.zeros(1, 8), torch.tensor([0]), torch.tensor([target]))
        for start in (0, 3):
            scores.add(0, [logits[:, start : start + 3].clone()], start, slice(0, 1))
        nats, found = scores.found()
        assert found.tolist() == [is_greedy]
        torch.testing.assert_close(nats.float(), logits.log_softmax(-1)[:, target])


def test_nothing_is_fetched_from_the_device_while_the_slices_arrive():
    # A device without values: whatever would have to be known on the host raises.
    device, ids = torch.device("meta"), torch.zeros(2, 9, dtype=torch.long)
    for measured in (Comparison([], [], [ids], device), TokenLosses([], [ids], device)):
        for start in (0, 100):
            for piece in (slice(0, 10), slice(10, 16)):
                logits = [torch.zeros(piece.stop - piece.start, 100, device=device) for _ in range(2)]
                measured.add(0, logits, start, piece)
