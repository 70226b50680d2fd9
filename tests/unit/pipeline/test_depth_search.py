"""The search for removable blocks finds what trying every block by transformers and float64 least squares finds."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur_service.calibration.sampling import TextSample
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.depth_search import DepthSearch
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pruning.structured.width import DAMPING
from secateur_service.sizing.depth import SCORED_EVERY
from support.models import VOCABULARY, save_model

LENGTH, SEQUENCES = 32, 24
MIX = {"de": 0.75, "uk": 0.25}


def samples(seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for language, top in (("de", VOCABULARY), ("uk", VOCABULARY // 3)):
        tokens = torch.randint(2, top, (SEQUENCES, LENGTH), generator=generator)
        found[language] = TextSample(language, tokens, torch.ones_like(tokens), torch.ones_like(tokens).bool(), 1)
    return found


def search(folder, text, languages=("de", "uk")):
    model = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    return DepthSearch(model, MIX, languages, text, Meter(RecordingObserver(), 6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), num_hidden_layers=6)


class Reference:
    """A model whose blocks are taken out in memory."""

    def __init__(self, folder, text):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        is_scored = torch.arange(SEQUENCES) % SCORED_EVERY == SCORED_EVERY - 1
        self.fitted = {name: sample.tokens[~is_scored] for name, sample in text.items()}
        self.scored = {name: sample.tokens[is_scored] for name, sample in text.items()}
        self.dense = self.losses(self.model)

    @torch.no_grad()
    def losses(self, model):
        found = {}
        for name, tokens in self.scored.items():
            chances = model(tokens, use_cache=False).logits[:, :-1].log_softmax(-1)
            found[name] = -float(chances.gather(-1, tokens[:, 1:, None]).double().sum())
        return found

    @torch.no_grad()
    def change(self, model, place):
        """What the projection before a block has to add, from a least squares problem with rows for the damping."""
        seen = {}
        down = model.model.layers[place - 1].mlp.down_proj
        handles = [
            down.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0])),
            model.model.layers[place].register_forward_hook(lambda _, inputs, out: seen.update(y=out - inputs[0])),
        ]
        rows, targets, squares = [], [], 0.0
        for name, tokens in self.fitted.items():
            model(tokens, use_cache=False)
            x, y = (seen[key].flatten(0, 1).double() * (MIX[name] / tokens.numel()) ** 0.5 for key in "xy")
            rows.append(x)
            targets.append(y)
            squares += x.square().sum() / x.shape[1]
        for handle in handles:
            handle.remove()
        rows.append((DAMPING * squares).sqrt() * torch.eye(down.in_features, dtype=torch.float64))
        targets.append(torch.zeros(down.in_features, down.out_features, dtype=torch.float64))
        return torch.linalg.lstsq(torch.cat(rows), torch.cat(targets)).solution.T

    def without(self, model, place, *, heals=True):
        smaller = copy.deepcopy(model)
        if place and heals:
            with torch.no_grad():
                smaller.model.layers[place - 1].mlp.down_proj.weight += self.change(model, place).float()
        del smaller.model.layers[place]
        return smaller

    def growth(self, model):
        return {name: nats / self.dense[name] - 1 for name, nats in self.losses(model).items()}


def test_it_removes_what_exhaustive_search_removes(folder):
    text = samples()
    reference = Reference(folder, text)
    found = {place: reference.growth(reference.without(reference.model, place)) for place in range(6)}
    best = min(found, key=lambda place: max(found[place].values()))
    depth = search(folder, text).remove(1)
    assert [removal.block for removal in depth.removals] == [best]
    for name, growth in depth.removals[0].growth.items():
        assert growth == pytest.approx(found[best][name], abs=1e-5)
    if best:
        name = f"model.layers.{best - 1}.mlp.down_proj.weight"
        healed = reference.without(reference.model, best).model.layers[best - 1].mlp.down_proj.weight
        assert torch.allclose(depth.solved[name], healed, atol=1e-4)


def test_each_round_goes_on_from_the_one_before(folder):
    text = samples(1)
    reference = Reference(folder, text)
    model, left = reference.model, list(range(6))
    for removal in search(folder, text).remove(3).removals:
        found = [reference.growth(reference.without(model, place)) for place in range(len(left))]
        best = min(range(len(left)), key=lambda place: max(found[place].values()))
        assert removal.block == left[best]
        for name, growth in removal.growth.items():
            assert growth == pytest.approx(found[best][name], abs=1e-4)
        model = reference.without(model, best)
        del left[best]


def test_only_the_losses_of_kept_languages_count(folder):
    text = samples()
    reference = Reference(folder, text)
    for language in ("de", "uk"):
        found = [reference.growth(reference.without(reference.model, place))[language] for place in range(6)]
        (removal,) = search(folder, text, (language,)).remove(1).removals
        assert removal.block == found.index(min(found))
        assert set(removal.growth) == {language}


def test_a_known_order_is_followed(folder):
    text = samples()
    reference = Reference(folder, text)
    depth = search(folder, text).remove(2, (4, 2))
    assert [removal.block for removal in depth.removals] == [4, 2]
    model = reference.without(reference.without(reference.model, 4), 2)
    assert depth.removals[1].growth == pytest.approx(reference.growth(model), abs=1e-4)
    assert set(depth.solved) == {f"model.layers.{index}.mlp.down_proj.weight" for index in (1, 3)}


def test_what_makes_up_for_a_block_goes_with_the_block_that_has_it(folder):
    depth = search(folder, samples()).remove(2, (3, 2))
    assert set(depth.solved) == {"model.layers.1.mlp.down_proj.weight"}
