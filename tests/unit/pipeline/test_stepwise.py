import functools

import pytest
import torch
from torch import nn

from secateur_service.pipeline.stepwise import stepwise_forwards


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.steps = []

    def forward(self, x):
        y = self.a(x) + self.b(x)
        self.steps.append("sum")
        z = self.c(y)
        self.steps.append("end")
        return z


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def passes(block, inputs, groups=(("a", "b"), ("c",))):
    linears = {name: block.get_submodule(name) for name in "abc"}
    return stepwise_forwards([functools.partial(block, x) for x in inputs], groups, linears)


def test_passes_wait_side_by_side_while_their_next_layers_change():
    block, inputs = Block(), torch.randn(3, 2, 4).unbind()
    with passes(block, inputs) as forwards:
        assert all(forward.advance() is x for forward, x in zip(forwards, inputs, strict=True))
        block.a.weight.zero_()
        sums = [forward.advance() for forward in forwards]
        assert block.steps == ["sum"] * 3
        for x, y in zip(inputs, sums, strict=True):
            torch.testing.assert_close(y, block.a.bias + nn.functional.linear(x, block.b.weight, block.b.bias))
        block.c.weight.zero_()
        outputs = [forward.finish() for forward in forwards]
    assert all(torch.equal(output, block.c.bias.expand(2, 4)) for output in outputs)
    assert torch.equal(block(inputs[0]), outputs[0]), "without the hooks the block runs through"


def test_a_pass_that_is_closed_runs_no_further():
    block = Block()
    with passes(block, torch.randn(2, 1, 4).unbind()) as (forward, _):
        forward.advance()
        forward.advance()
    assert block.steps == ["sum"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [((("a",), ("b", "c")), "do not share their input"), ((("c",), ("a", "b")), "did not come to input 0")],
)
def test_a_table_that_is_wrong_about_a_block_is_found_out(groups, message):
    def run():
        with passes(Block(), [torch.randn(1, 4)], groups) as (forward,):
            for _ in groups:
                forward.advance()
            forward.finish()

    with pytest.raises(RuntimeError, match=message):
        run()


def test_a_pass_does_not_finish_before_its_last_input():
    with passes(Block(), [torch.randn(1, 4)]) as (forward,):
        forward.advance()
        with pytest.raises(RuntimeError, match="came to input 1 after its last"):
            forward.finish()


def test_an_error_in_a_block_comes_out_where_the_pass_is_advanced():
    with passes(Block(), [torch.randn(1, 5)]) as (forward,):
        forward.advance()
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            forward.advance()
