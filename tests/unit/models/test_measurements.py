"""What is measured while slices of the vocabulary arrive."""

import torch

from secateur_service.models.measurements import TargetScores


def test_of_equally_probable_tokens_the_first_is_the_greedy_one_in_whichever_slice():
    logits = torch.tensor([[1.0, 3.0, 0.0, 3.0, 3.0, 2.0]])
    for target, is_greedy in ((1, True), (3, False), (4, False)):
        scores = TargetScores(torch.zeros(1, 8), torch.tensor([0]), torch.tensor([target]))
        for start in (0, 3):
            scores.add(0, [logits[:, start : start + 3].clone()], start, slice(0, 1))
        nats, found = scores.found()
        assert found.tolist() == [is_greedy]
        torch.testing.assert_close(nats.float(), logits.log_softmax(-1)[:, target])
