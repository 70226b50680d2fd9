"""Neurons that belong to a language: found where they were planted, and followed into the output."""

import pytest
import torch

from secateur_service.pruning.language_neurons import Activity, language_neurons, survey

COUNT, TOKENS = 1000, 10_000


def common(seed=0):
    """Shares of neurons that are alike in three languages, and most of them rarely active."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.rand(COUNT, 1, generator=generator, dtype=torch.float64).expand(COUNT, 3).clone()


def planted():
    """The same with six neurons of the first language, and four of the second and third together: 1 % of all."""
    shares_NL = common()
    shares_NL[:6] = torch.tensor([0.9, 0.01, 0.01], dtype=torch.float64)
    shares_NL[6:10] = torch.tensor([0.01, 0.8, 0.8], dtype=torch.float64)
    return shares_NL


def activity(shares_NL):
    halves = (shares_NL * TOKENS).long().T
    return Activity(
        {name: torch.stack([of, of]) for name, of in zip(("de", "en", "uk"), halves, strict=True)},
        dict.fromkeys(("de", "en", "uk"), (TOKENS, TOKENS)),
    )


def weights(count, nonzero=40):
    return torch.stack([torch.full((count,), nonzero), torch.full((count,), 100)])


def test_neurons_active_in_few_languages_are_found_and_assigned_to_all_of_these():
    found = language_neurons(planted())
    assert found[:10].tolist() == [[True, False, False]] * 6 + [[False, True, True]] * 4
    assert not found[10:].any()


def test_neurons_that_are_rarely_active_everywhere_belong_to_no_language():
    shares_NL = common() + 0.5
    shares_NL[0] = torch.tensor([0.01, 0.0, 0.0])  # the lowest entropy, below the 95th percentile of all shares
    assert not language_neurons(shares_NL)[0].any()


def test_neurons_that_were_removed_survive_nowhere_and_others_keep_their_place():
    kept = torch.arange(3, COUNT)  # without three of the first language's six
    pruned = activity(planted()[kept])
    found = survey(activity(planted()), pruned, kept, weights(len(kept)))
    german, english, _ = found.languages
    assert (found.neurons, found.kept, found.weights_kept) == (COUNT, COUNT - 3, 0.4)
    assert (german.neurons, german.kept) == (6, 3)
    assert german.in_output == 6  # others take their place: they are always 1 %
    assert (german.found_again, german.survived) == (1.0, 0.5)
    assert (english.neurons, english.kept, english.survived) == (4, 4, 1.0)


def test_new_neurons_count_for_the_output_and_not_as_survivors():
    changed = planted()
    changed[:2] = 0.1
    changed[100:104] = torch.tensor([0.9, 0.01, 0.01], dtype=torch.float64)
    german = survey(activity(planted()), activity(changed), torch.arange(COUNT), weights(COUNT)).languages[0]
    assert (german.neurons, german.kept, german.in_output) == (6, 6, 8)
    assert german.survived == pytest.approx(4 / 6)


def test_weights_are_those_of_the_languages_neurons():
    some = weights(COUNT)
    some[0, :6] = 90
    found = survey(activity(planted()), activity(planted()), torch.arange(COUNT), some)
    assert [each.weights_kept for each in found.languages] == [0.9, 0.4, 0.4]


def test_nothing_is_said_of_survival_without_two_halves_and_nothing_found_without_neurons():
    one = activity(planted())
    single = Activity(one.active, dict.fromkeys(one.active, (TOKENS, 0)))
    found = survey(single, single, torch.arange(COUNT), weights(COUNT)).languages[0]
    assert (found.neurons, found.found_again, found.survived) == (6, None, None)
    nothing = torch.tensor([], dtype=torch.long)
    lost = survey(one, activity(planted()[:0]), nothing, weights(0))
    assert (lost.weights_kept, lost.languages[0].kept, lost.languages[0].survived) == (None, 0, 0.0)
