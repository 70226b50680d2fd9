"""What a refusal suggests."""

import pytest

from secateur_service.errors import InvalidSpecError
from secateur_service.spec import parse_spec

GOOD = {
    "model": {"uri": "file:///m"},
    "calibration": {"corpus": "file:///c", "languages": [{"language": "de"}]},
    "pruning": {"sparsity": 0.5},
}


@pytest.mark.parametrize(
    ("part", "content", "told"),
    [
        ("pruning", {"sparsity": 50}, "pruning.sparsity: has to be less than 1, not 50; did you mean 0.5?"),
        ("pruning", {"sparsity": 1.5}, "not 1.5; expected a share"),
        ("pruning", {"sparsity": 100}, "not 100; expected a share"),
        ("pruning", {"sparsity": 0.5, "allocation": {"policy": "owl", "span": 8}}, "did you mean 0.08?"),
        ("limits", {"task_loss": 2}, "did you mean 0.02?"),
        ("pruning", {"pattern": "2/4"}, "prunes some; did you mean 2:4?"),
        ("pruning", {"pattern": "2-4"}, "did you mean 2:4?"),
        ("pruning", {"pattern": "2 of 4"}, "did you mean 2:4?"),
        ("pruning", {"pattern": "4:2"}, "did you mean 2:4?"),
        ("pruning", {"pattern": "4:4"}, "expected N:M"),
        ("pruning", {"sparsity": 0.5, "method": "sparse-gpt"}, "is not a method; did you mean sparsegpt?"),
        ("pruning", {"sparsity": 0.5, "update": "CG"}, "is not an update; did you mean cg?"),
        ("pruning", {"sparsity": 0.5, "preset": "ballanced"}, "did you mean balanced?"),
        ("pruning", {"sparsity": 0.5, "order": "sequential"}, "did you mean true_sequential?"),
        ("pruning", {"sparsity": 0.5, "order": "random"}, "expected one of block, true_sequential, dense"),
        ("pruning", {"sparsity": 0.5, "allocation": {"policy": "OWL"}}, "did you mean owl?"),
        ("pruning", {"sparsity": 0.5, "metod": "wanda"}, "pruning.metod: no such field; did you mean method?"),
        ("shrink", {"budget": {"parameters": 50}}, "did you mean 0.5?"),
        ("shrink", {"budget": {"parameters": 0.5, "axes": ["ffn"]}}, "some of vocabulary, blocks"),
        ("shrink", {"budget": {"parameters": 0.5, "axes": ["block"]}}, "did you mean blocks?"),
        (
            "shrink",
            {"vocabulary": {"rows": 64, "weights": [{"language": "en"}]}},
            "weight is missing; expected a",
        ),
        ("evaluation", {"languages": ["ge"]}, "did you mean de (German) or ka (Georgian)?"),
        ("evaluation", {"languages": ["xx"]}, "is not a language that BCP 47 knows; expected BCP 47 tags"),
        ("calibrate", {}, "calibrate: no such part of a specification; did you mean calibration?"),
    ],
)
def test_a_refusal_says_what_was_meant(part, content, told):
    with pytest.raises(InvalidSpecError) as refused:
        parse_spec({**GOOD, part: content})
    (violation,) = refused.value.violations
    assert told in str(violation)
