"""Intervals from resampled documents: against a second computation, and on corpora whose figures are known."""

import hashlib
import math

import numpy as np
import pytest
import torch

from secateur_service.evaluation.intervals import MIN_DOCUMENTS, RESAMPLES, intervals
from secateur_service.evaluation.perplexity import Likeness, Losses

# Of Student's distribution at 0.975, from a table, by degrees of freedom.
STUDENT = {9: 2.2622, 24: 2.0639, 119: 1.9801}


def corpus(documents, seed, *, growth=0.2, spread=0.1):
    """Losses of documents of unequal length, of which the pruned model loses more in some."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(5, 60, documents)
    hardness = draw.normal(3.0, 0.5, documents)
    dense = tokens * hardness
    pruned = dense + tokens * draw.normal(growth, spread, documents)
    size = tokens * draw.integers(2, 6, documents)
    sides = [np.stack([nats, tokens, size], 1) for nats in (dense, pruned)]
    likeness = np.stack([tokens * draw.random(documents) / 5, draw.binomial(tokens, 0.8)], 1)
    return (*(losses(side) for side in sides), like(likeness, tokens))


def losses(table):
    nats, tokens, size = table.sum(0)
    return Losses(float(nats), int(tokens), int(size), torch.tensor(table, dtype=torch.float64))


def like(table, tokens):
    return Likeness(float(table[:, 0].sum()), int(table[:, 1].sum()), int(tokens.sum()), torch.tensor(table).double())


@pytest.mark.parametrize("documents", [10, 25, 120])
def test_they_equal_a_second_computation(documents):
    dense, pruned, likeness = corpus(documents, seed=documents)
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(b"uk").digest()[:4]))
    drawn = torch.randint(documents, (RESAMPLES, documents), generator=generator).numpy()
    figures = {name: [] for name in ("ratio", "growth", "bits", "kl", "agreement", "perplexity")}
    for row in drawn:
        first, second, both = (part.documents.numpy()[row].sum(0) for part in (dense, pruned, likeness))
        bits = [side[0] / side[2] / math.log(2) for side in (first, second)]
        figures["bits"].append(bits[1])
        figures["growth"].append(bits[1] / bits[0] - 1)
        figures["perplexity"].append(math.exp(first[0] / first[1]))
        figures["ratio"].append(math.exp((second[0] - first[0]) / first[1]))
        figures["kl"].append(both[0] / first[1])
        figures["agreement"].append(both[1] / first[1])
    shift = math.sqrt(documents / (documents - 1)) * STUDENT[documents - 1]
    below = 0.5 * math.erfc(shift / math.sqrt(2))
    found = intervals("uk", dense, pruned, likeness)
    assert found.documents == documents
    for name, got in (
        ("ratio", found.perplexity_ratio),
        ("growth", found.bits_per_byte_growth),
        ("bits", found.pruned_bits_per_byte),
        ("perplexity", found.dense_perplexity),
        ("kl", found.kl_divergence),
        ("agreement", found.agreement),
    ):
        expected = np.quantile(figures[name], [below, 1 - below])
        spread = expected[1] - expected[0]
        assert got == pytest.approx(expected, abs=0.02 * spread if documents == 10 else 2e-3 * spread), name


@pytest.mark.parametrize("documents", [25, 120])
def test_95_of_100_corpora_hold_what_all_text_would_give(documents):
    everything = corpus(200_000, seed=0)
    truth = math.exp((everything[1].nats - everything[0].nats) / everything[0].tokens)
    hits = 0
    for seed in range(1, 201):
        low, high = intervals("de", *corpus(documents, seed)).perplexity_ratio
        hits += low <= truth <= high
    assert 0.92 <= hits / 200 <= 0.98


def test_paired_differences_are_narrower_than_the_perplexities():
    dense, pruned, _ = corpus(100, seed=1, spread=0.02)
    found = intervals("de", dense, pruned)
    assert math.log(found.perplexity_ratio[1] / found.perplexity_ratio[0]) < 0.2 * math.log(
        found.pruned_perplexity[1] / found.pruned_perplexity[0]
    )
    assert found.kl_divergence is None


def test_languages_are_drawn_independently_and_always_alike():
    dense, pruned, likeness = corpus(40, seed=2)
    assert intervals("de", dense, pruned, likeness) == intervals("de", dense, pruned, likeness)
    assert intervals("de", dense, pruned, likeness) != intervals("uk", dense, pruned, likeness)


def test_few_documents_give_none_and_documents_without_scored_tokens_do_not_count():
    dense, pruned, _ = corpus(MIN_DOCUMENTS - 1, seed=3)
    assert intervals("de", dense, pruned) is None
    assert intervals("de", Losses(1.0, 1, 1), pruned) is None
    empty = torch.zeros(1, 3, dtype=torch.float64)
    table = torch.cat([empty, corpus(12, seed=3)[0].documents])
    some = Losses(1.0, 1, 1, table)
    assert intervals("de", some, some).documents == 12


def test_losses_beyond_all_measure_have_intervals_that_json_can_hold():
    dense, pruned, _ = corpus(20, seed=5)
    lost = Losses(1e7, pruned.tokens, pruned.bytes, pruned.documents * torch.tensor([1e4, 1, 1]).double())
    for pair in ((dense, lost), (lost, dense)):
        found = intervals("de", *pair)
        bounds = [bound for pair in vars(found).values() if isinstance(pair, tuple) for bound in pair]
        assert all(math.isfinite(bound) for bound in bounds)
        assert found.perplexity_ratio[0] > 0


def test_a_last_document_that_only_one_side_has_is_counted_there():
    dense, pruned, _ = corpus(20, seed=4)
    shorter = Losses(pruned.nats, pruned.tokens, pruned.bytes, pruned.documents[:-1])
    assert intervals("de", dense, shorter).documents == 20
