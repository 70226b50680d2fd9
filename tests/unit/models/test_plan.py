"""Cut tensors are the parts of the dense ones that the plan keeps, however they are read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from secateur_service.models.cutting import CutReader
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.plan import OutputPlan
from secateur_service.models.tensors import TensorReader
from support.models import VOCABULARY, save_model


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return open_checkpoint(save_model(tmp_path_factory.mktemp("model"), tie_word_embeddings=True))


def some_of(size):
    return st.lists(st.integers(0, size - 1), min_size=1, unique=True)


@settings(max_examples=25)
@given(rows=some_of(VOCABULARY), columns=some_of(64), blocks=st.sets(st.integers(0, 2), min_size=1))
def test_every_way_of_reading_gives_what_is_kept(dense, rows, columns, blocks):
    blocks = tuple(sorted(blocks))
    first = f"model.layers.{blocks[0]}.mlp.up_proj.weight"
    plan = OutputPlan(dense, dense.config, blocks, {dense.embedding_name: {0: rows, 1: columns}, first: {1: columns}})
    reader, output = CutReader(plan, TensorReader()), plan.output()
    info = output.tensors[output.embedding_name]
    whole = TensorReader().read(dense.tensors[dense.embedding_name])
    expected = whole[rows][:, columns]
    assert info.shape == tuple(expected.shape)
    assert info.size_bytes == expected.nbytes
    assert torch.equal(reader.read(info), expected)
    assert torch.equal(reader.read_rows(info, 0, len(rows)), expected)
    chosen = list(range(0, len(rows), 2))
    assert torch.equal(reader.gather_rows(info, chosen), expected[chosen])
    assert b"".join(reader.copy(info).chunks) == expected.numpy().tobytes()
    new = output.tensors["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(reader.read(new), TensorReader().read(dense.tensors[first])[:, columns])
    assert output.num_blocks == len(blocks)
    assert {name for name in output.tensors if name.startswith("model.layers.")} == {
        f"model.layers.{place}.{name.split('.', 3)[3]}"
        for place, block in enumerate(blocks)
        for name in dense.tensors
        if name.startswith(f"model.layers.{block}.")
    }


def test_a_block_that_has_been_read_is_cut_as_if_it_were_read_so(dense):
    name = "model.layers.2.mlp.down_proj.weight"
    plan = OutputPlan(dense, dense.config, (0, 2), {name: {1: [5, 3]}})
    reader = CutReader(plan, TensorReader())
    stored = {info.name: TensorReader().read(info) for info in dense.block_tensors(2)}
    cut = reader.cut_block(stored)
    output = plan.output()
    assert cut.keys() == {info.name for info in output.block_tensors(1)}
    for info in output.block_tensors(1):
        assert torch.equal(cut[info.name], reader.read(info))


def test_rows_that_follow_upon_each_other_are_read_at_once(tmp_path):
    table = torch.arange(40, dtype=torch.float32).reshape(10, 4)
    save_file({"table": table}, tmp_path / "model.safetensors")
    from secateur_service.models.safetensors import read_header

    opened = []

    class Counted:
        def __init__(self, path):
            self._file = path.open("rb", buffering=0)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def seek(self, place):
            opened.append(place)
            self._file.seek(place)

        def readinto(self, view):
            return self._file.readinto(view)

    info = read_header(tmp_path / "model.safetensors")["table"]
    rows = [2, 3, 4, 9, 0, 1]
    assert torch.equal(TensorReader(Counted).gather_rows(info, rows), table[rows])
    assert len(opened) == 3


def test_the_identity_is_the_model_itself(dense):
    plan = OutputPlan.identity(dense)
    assert plan.is_identity
    assert plan.keeps_tokens
    assert plan.output() is dense


def test_plans_that_write_something_else_have_other_digests(dense):
    everything = {"dense": dense, "config": dense.config, "blocks": (0, 1, 2)}
    plans = [
        everything,
        {**everything, "blocks": (0, 1)},
        {**everything, "config": {**dense.config, "vocab_size": 5}},
        {**everything, "kept": {"model.norm.weight": {0: [1, 2]}}},
        {**everything, "kept": {"model.norm.weight": {0: [2, 1]}}},
        {**everything, "files": {"tokenizer.json": b"{}"}},
        {**everything, "files": {"tokenizer.json": b"[]"}},
    ]
    assert len({OutputPlan(**plan).digest() for plan in plans}) == len(plans)
