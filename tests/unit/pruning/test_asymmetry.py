"""What is pruned towards the dense model's output, against float64 least squares."""

import pytest
import torch

from secateur_service.pruning.asymmetry import BY_TOKENS, DAMPING, CrossMoments, aims
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import NofM, Unstructured
from secateur_service.pruning.solver import solve
from secateur_service.pruning.statistics import InputStatistics

TOKENS, WIDTH, HEIGHT = 300, 24, 10
MIX = {"de": 0.75, "uk": 0.25}


@pytest.fixture
def scene():
    """Inputs by language, correlated; a layer; and what its output should have in addition."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixing = random(WIDTH, WIDTH)
    inputs = {language: random(TOKENS, WIDTH) @ mixing for language in MIX}
    bend = 0.3 * random(WIDTH, HEIGHT)
    wanted = {language: x @ bend + random(TOKENS, HEIGHT) for language, x in inputs.items()}
    return inputs, random(HEIGHT, WIDTH), wanted


def known(inputs, wanted):
    statistics = InputStatistics(
        WIDTH, MIX, dict.fromkeys(MIX, TOKENS), torch.device("cpu"), moments=Moments.BY_LANGUAGE
    )
    cross = CrossMoments(MIX, dict.fromkeys(MIX, TOKENS))
    for language, x in inputs.items():
        statistics.update(x.float(), language)
        cross.update(wanted[language], x, language)
    return statistics, cross.matrix


def aim(weight, gram, cross):
    (found,) = aims([weight], [cross.__getitem__], gram, len(MIX) * TOKENS)
    return found


def error(inputs, weight, target):
    """Σ_ℓ w_ℓ ‖XŴᵀ − Y‖²/T."""
    return sum(
        share * float((inputs[language] @ weight.double().T - target[language]).square().sum()) / TOKENS
        for language, share in MIX.items()
    )


def outputs(inputs, weight, wanted):
    return {language: x @ weight.T + wanted[language] for language, x in inputs.items()}


def test_it_is_the_least_squares_solution_damped_towards_the_dense_layer(scene):
    inputs, weight, wanted = scene
    statistics, cross = known(inputs, wanted)
    moments = statistics.gram.double().diagonal()
    damping = (DAMPING + BY_TOKENS * WIDTH / (len(MIX) * TOKENS)) * moments + 1e-4 * moments.mean()
    rows = torch.cat([x * (MIX[name] / TOKENS) ** 0.5 for name, x in inputs.items()])
    sought = torch.cat([d * (MIX[name] / TOKENS) ** 0.5 for name, d in wanted.items()])
    rows = torch.cat([rows, damping.sqrt().diag()])
    sought = torch.cat([sought, torch.zeros(WIDTH, HEIGHT, dtype=torch.float64)])
    change = torch.linalg.lstsq(rows, sought).solution.T
    assert torch.allclose(aim(weight.float(), statistics.gram, cross).double(), weight + change, atol=1e-4)


@pytest.mark.parametrize("target", [Unstructured(0.5, "layer"), Unstructured(0.5, "row"), NofM(2, 4)], ids=str)
@pytest.mark.parametrize(("method", "update"), [("sparsegpt", "obs"), ("sparsegpt", "cg"), ("alps", None)], ids=str)
def test_every_solver_comes_closer_to_the_target_by_pruning_it(scene, method, update, target):
    inputs, weight, wanted = scene
    statistics, cross = known(inputs, wanted)
    towards = outputs(inputs, weight, wanted)
    own, aimed = (
        solve(Recipe.of(method, update), [each.float()], statistics, target)[0]
        for each in (weight, aim(weight.float(), statistics.gram, cross))
    )
    assert int(own.pruned.sum()) == int(aimed.pruned.sum())
    assert not aimed.weight[aimed.pruned].any()
    assert error(inputs, aimed.weight, towards) < 0.9 * error(inputs, own.weight, towards)


def test_nothing_wanted_leaves_the_layer_as_it_is(scene):
    inputs, weight, wanted = scene
    statistics, cross = known(inputs, {name: torch.zeros_like(each) for name, each in wanted.items()})
    assert torch.equal(aim(weight.float(), statistics.gram, cross), weight.float())


def test_few_tokens_are_not_fitted_to_chance():
    """Nothing can be made up for where what is wanted has nothing to do with the inputs."""
    generator = torch.Generator().manual_seed(1)
    x, other, wanted = (torch.randn(30, width, generator=generator) for width in (WIDTH, WIDTH, HEIGHT))
    weight = torch.randn(HEIGHT, WIDTH, generator=generator)
    (found,) = aims([weight], [(wanted.T @ x / 30).__getitem__], x.T @ x / 30, 30)
    assert (other @ (found - weight).T).square().sum() < 0.5 * wanted.square().sum()


def test_inputs_that_are_never_used_are_survived(scene):
    inputs, weight, wanted = scene
    for part in inputs.values():
        part[:, 3] = 0
    statistics, cross = known(inputs, wanted)
    found = aim(weight.float(), statistics.gram, cross)
    assert torch.allclose(found[:, 3], weight[:, 3].float(), atol=1e-4)
    nothing = torch.zeros(WIDTH, WIDTH)
    assert torch.equal(aim(weight.float(), nothing, torch.zeros(HEIGHT, WIDTH)), weight.float())


def test_what_is_not_finite_is_refused(scene):
    inputs, weight, wanted = scene
    wanted["uk"][5, 2] = torch.nan
    statistics, cross = known(inputs, wanted)
    with pytest.raises(FloatingPointError, match="not finite"):
        aim(weight.float(), statistics.gram, cross)
