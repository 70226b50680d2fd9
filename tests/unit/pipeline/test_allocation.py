"""How much of every layer goes, decided on the dense model."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.allocation import allocate, judge_blocks, targets_from_json, targets_to_json
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pruning.allocation import multilingual, owl
from secateur_service.pruning.patterns import NofM, Unstructured, target_count
from secateur_service.spec import parse_spec
from support.models import save_corpora, save_model
from support.passes import MIX, draw


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def scene(request, tmp_path_factory):
    """A model in a folder, and calibration text."""
    folder = tmp_path_factory.mktemp("allocation")
    model = save_model(folder / "model", request.param)
    return model, draw(model, *save_corpora(folder), MIX)[0]


def specification(**pruning):
    return parse_spec(
        {
            "model": {"uri": "file:///m"},
            "calibration": {
                "corpus": "file:///c",
                "languages": [{"language": name, "weight": weight} for name, weight in MIX.items()],
            },
            "pruning": pruning,
        }
    )


def run(function, scene, *, signal=None, **pruning):
    model = StreamedModel(open_checkpoint(scene[0]), torch.device("cpu"), torch.float32)
    arguments = (model, specification(**pruning), scene[1], RecordingObserver(), Stopwatch())
    return function(*arguments, *([signal] if signal else []))


def shapes(scene):
    return {info.name: info.shape for info in open_checkpoint(scene[0]).linear_weights()}


def pruned(scene, targets):
    return sum(target_count(math.prod(shapes(scene)[name]), target.sparsity) for name, target in targets.items())


def test_a_uniform_allocation_asks_for_the_same_of_every_layer_and_looks_at_no_text(scene):
    targets = run(allocate, (scene[0], {}), method="wanda", sparsity=0.6)
    assert targets == dict.fromkeys(shapes(scene), Unstructured(0.6, "row"))
    assert set(run(allocate, (scene[0], {}), pattern="2:4").values()) == {NofM(2, 4)}
    assert set(run(allocate, (scene[0], {}), sparsity=0.6).values()) == {Unstructured(0.6, "layer")}
    assert set(run(allocate, (scene[0], {}), sparsity=0.6, group="row").values()) == {Unstructured(0.6, "row")}


def test_overrides_hold_for_the_layers_that_they_name_and_dense_layers_have_no_target(scene):
    targets = run(
        allocate,
        (scene[0], {}),
        method="wanda",
        sparsity=0.6,
        overrides=[
            {"layers": "*.o_proj.weight", "pattern": "2:4"},
            {"layers": "*.q_proj.weight", "sparsity": 0.1},
            {"layers": "*.layers.0.*", "dense": True},
        ],
    )
    assert not any(".layers.0." in name for name in targets)
    for name in shapes(scene).keys() - targets.keys():
        assert ".layers.0." in name
    for name, target in targets.items():
        expected = Unstructured(0.6, "row")
        if "o_proj" in name:
            expected = NofM(2, 4)
        elif "q_proj" in name:
            expected = Unstructured(0.1, "row")
        assert target == expected


@pytest.mark.parametrize("policy", ["owl", "multilingual"])
def test_an_unequal_allocation_prunes_exactly_as_much_as_was_asked_for(scene, policy):
    targets = run(allocate, scene, sparsity=0.7, allocation={"policy": policy, "span": 0.2})
    assert targets.keys() == shapes(scene).keys()
    assert len({target.sparsity for target in targets.values()}) > 1
    assert pruned(scene, targets) == target_count(sum(map(math.prod, shapes(scene).values())), 0.7)


def test_layers_with_an_override_are_outside_of_the_budget(scene):
    targets = run(
        allocate,
        scene,
        sparsity=0.7,
        allocation={"policy": "owl"},
        overrides=[{"layers": "*.q_proj.weight", "sparsity": 0.1}, {"layers": "*.layers.1.*", "dense": True}],
    )
    free = {name: target for name, target in targets.items() if "q_proj" not in name}
    assert {target.sparsity for name, target in targets.items() if "q_proj" in name} == {0.1}
    assert not any(".layers.1." in name for name in targets)
    assert pruned(scene, free) == target_count(sum(math.prod(shapes(scene)[name]) for name in free), 0.7)


def test_where_every_layer_has_an_override_nothing_is_left_to_allocate(scene):
    overrides = [{"layers": "*", "sparsity": 0.3}]
    targets = run(allocate, scene, sparsity=0.7, allocation={"policy": "owl"}, overrides=overrides)
    assert set(targets.values()) == {Unstructured(0.3, "layer")}


def mean_squares(folder, calibration):
    """Linear layer → (|W|, language → mean squares of its inputs), by hooks on the whole model in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    found = {
        name: (module, {}) for name, module in model.model.layers.named_modules() if isinstance(module, torch.nn.Linear)
    }

    def adds_to(sums):
        def hook(_, args):
            sums.add_(args[0].square().sum((0, 1)))

        return hook

    for language, sample in calibration.items():
        handles = []
        for module, squares in found.values():
            squares[language] = torch.zeros(module.in_features, dtype=torch.float64)
            handles.append(module.register_forward_pre_hook(adds_to(squares[language])))
        with torch.no_grad():
            for sequence in sample.tokens:
                model(input_ids=sequence[None], use_cache=False)
        for handle in handles:
            handle.remove()
        for _, squares in found.values():
            squares[language] /= sample.tokens.numel()
    return {name: (module.weight.detach().abs(), squares) for name, (module, squares) in found.items()}


def share_of_outliers(layers, means, outlier):
    """By the definition, of (|W|, mean squares of the inputs) of every layer."""
    scores = torch.cat([(weight * mean.sqrt()).flatten() for weight, mean in zip(layers, means, strict=True)])
    return pytest.approx(float((scores > outlier * scores.mean()).double().mean()), abs=2 / len(scores))


def test_signals_are_those_of_the_definitions_on_the_whole_model(tmp_path):
    folder = save_model(tmp_path / "model")
    calibration = draw(folder, *save_corpora(tmp_path), MIX)[0]
    found = mean_squares(folder, calibration)
    by_owl, blocks = run(judge_blocks, (folder, calibration), signal=lambda layers: owl(layers, 3), sparsity=0.7)
    by_language, _ = run(
        judge_blocks, (folder, calibration), signal=lambda layers: multilingual(layers, 3), sparsity=0.7
    )
    for index, inputs in enumerate(blocks):
        assert [len(layers) for layers in inputs] == [3, 1, 2, 1]
        names = [name for layers in inputs for name in layers]
        inside = [found[name.removeprefix("model.layers.").removesuffix(".weight")] for name in names]
        weights = [weight for weight, _ in inside]
        mixed = [sum(MIX[language] * square for language, square in squares.items()) for _, squares in inside]
        assert by_owl[index] == share_of_outliers(weights, mixed, 3)
        shares = [
            share_of_outliers(weights, [squares[language] for _, squares in inside], 3).expected for language in MIX
        ]
        assert by_language[index] == pytest.approx(max(shares), abs=1e-4)
        assert len(set(shares)) == len(MIX)


def test_targets_survive_json():
    targets = {"a": Unstructured(0.123456789, "layer"), "b": NofM(2, 4), "c": Unstructured(1.0, "row")}
    assert targets_from_json(json.loads(json.dumps(targets_to_json(targets)))) == targets
