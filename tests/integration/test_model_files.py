"""What a job makes of the files that lie beside a model's weights."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.records.progress import Stage
from support.inline import run_inline
from support.models import save_corpora, save_model, spec_data


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return save_model(folder / "model"), *save_corpora(folder)


@pytest.fixture
def model(inputs, tmp_path):
    return shutil.copytree(inputs[0], tmp_path / "model")


def job(model, inputs, output, observer=None):
    return run_inline(spec_data(model, *inputs[1:]), output, observer)


def published(output):
    """Digest of every file of the checkpoint, by its name."""
    folder = output / "checkpoint"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def warnings(observer):
    return [message for level, message, _ in observer.lines if level == "warning"]


def laughs():
    lines = ["l0: &l0 [ha, ha]", *(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 60)), "license: *l59"]
    return "\n".join(lines)


# What lies beside the weights, and what the job says of it; None where it says nothing.
WORDS = {
    "a date that is none": ({"README.md": b"---\nlicense: mit\ndate: 2023-02-30\n---\n"}, None),
    "broken front matter": ({"README.md": b"---\nlicense: {\n---\n"}, "README.md is left out"),
    "front matter that is not UTF-8": ({"README.md": b"---\nlicense: \xff\n---\n"}, "README.md is left out"),
    "aliases of aliases": ({"README.md": f"---\n{laughs()}\n---\n".encode()}, None),
    "deep front matter": ({"README.md": b"---\n" + b"[" * 50_000 + b"\n---\n"}, "README.md is left out"),
    "long front matter": ({"README.md": b"---\nx: " + b"y" * 200_000 + b"\n---\n"}, "README.md is left out"),
    "a card that is a folder": ({"README.md/notes.txt": b"x"}, None),
    "generation that is no JSON": ({"generation_config.json": b"{"}, "generation_config.json is left out"),
    "generation that is a list": ({"generation_config.json": b"[]"}, "generation_config.json is left out"),
    "generation of values that are none": (
        {"generation_config.json": b'{"max_new_tokens": "many", "early_stopping": -3, "pad_token_id": {}}'},
        "generation_config.json is left out",
    ),
    "deep generation": ({"generation_config.json": b"[" * 100_000}, "generation_config.json is left out"),
    "special tokens that are broken": ({"special_tokens_map.json": b"\xff"}, "special_tokens_map.json is left out"),
    "a special token that is a number": (
        {"special_tokens_map.json": b'{"bos_token": NaN}'},
        "special_tokens_map.json is left out",
    ),
    "special tokens that are numbers": (
        {"special_tokens_map.json": b'{"additional_special_tokens": ["<s>", [1.5]]}'},
        "special_tokens_map.json is left out",
    ),
    "special tokens as transformers writes them": (
        {"special_tokens_map.json": b'{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>"}'},
        None,
    ),
    "an added token without a number": ({"added_tokens.json": b'{"<s>": "0"}'}, "added_tokens.json is left out"),
    "added tokens that are text": ({"added_tokens.json": b'"x"'}, "added_tokens.json is left out"),
    "a template that is not UTF-8": ({"chat_template.jinja": b"\xff{{"}, "chat_template.jinja is left out"),
    "a processor of nothing": ({"preprocessor_config.json": b""}, "preprocessor_config.json is left out"),
    "a vocabulary that is none": ({"vocab.json": b"nothing"}, "vocab.json is left out"),
    "a license that is no text": ({"LICENSE.pdf": bytes(range(256))}, None),
    "a template that is no template": ({"chat_template.jinja": b"{% if"}, None),
}


@pytest.mark.parametrize("words", WORDS)
def test_a_models_own_words_never_end_a_job(words, inputs, model, tmp_path):
    files, warning = WORDS[words]
    for name, content in files.items():
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(content)
    _, observer = job(model, inputs, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()
    told = [message for message in warnings(observer) if "left out" in message]
    assert [message.startswith(warning) for message in told] == [True] if warning else not told
    left_out = json.loads((tmp_path / "out" / "provenance.json").read_text())["model_files"]["left_out"]
    for name in files:
        is_published = name in published(tmp_path / "out") if name != "README.md" else not warning
        assert (name in left_out) != is_published, name
    AutoTokenizer.from_pretrained(tmp_path / "out" / "checkpoint")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint")


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"early_stopping": -3}', b'{"eos_token_id": "x"}', b'{"pad_token_id": [[1]]}'],
)
def test_a_model_that_writes_the_text_itself_does_so_whatever_its_generation_says(content, inputs, model, tmp_path):
    (model / "generation_config.json").write_bytes(content)
    data = spec_data(model, *inputs[1:])
    data["calibration"]["generation"] = {"prefix_tokens": 8, "new_tokens": 24}
    _, observer = run_inline(data, tmp_path / "out")
    assert [message for message in warnings(observer) if message.startswith("generation_config.json is left out")]


class Vandal(RecordingObserver):
    """Spoils everything that lies beside the weights once pruning begins."""

    def __init__(self, model, spoil):
        super().__init__()
        self.model, self.spoil = model, spoil

    def stage(self, stage):
        super().stage(stage)
        if stage is Stage.PRUNING:
            for path in self.model.rglob("*"):
                if path.is_file() and path.suffix != ".safetensors":
                    self.spoil(path)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"\xff{"), lambda path: path.unlink()])
def test_nothing_of_a_models_words_is_read_once_pruning_has_begun(spoil, inputs, model, tmp_path):
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    (model / "USE_POLICY.md").write_text("Be kind.\n")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    job(model, inputs, tmp_path / "undisturbed")
    job(model, inputs, tmp_path / "disturbed", Vandal(model, spoil))
    expected = published(tmp_path / "undisturbed")
    assert {"USE_POLICY.md", "additional_chat_templates/tools.jinja", "tokenizer.json"} <= expected.keys()
    assert published(tmp_path / "disturbed") == expected


def test_files_are_published_or_left_out_and_the_log_and_the_provenance_say_why(inputs, model, tmp_path):
    beside = {
        "consolidated.safetensors": b"once more",
        "pytorch_model.bin": b"never opened",
        "modeling_llama.py": b"raise SystemExit\n",
        "original/params.json": b"{}",
        "LICENSE.txt": b"free\n",
        "NOTICE": b"made by\n",
        "merges.txt": b"#version\n",
        "tekken.json": b"{}",
    }
    for name, content in beside.items():
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(content)
    (model / "COPYING").symlink_to("nowhere")
    _, observer = job(model, inputs, tmp_path / "out")
    files = json.loads((tmp_path / "out" / "provenance.json").read_text())["model_files"]
    expected = {"COPYING", "consolidated.safetensors", "modeling_llama.py", "original/params.json", "pytorch_model.bin"}
    assert files["left_out"].keys() == expected
    assert files["rewritten"] == ["model.safetensors"]
    there = published(tmp_path / "out")
    assert {"LICENSE.txt", "NOTICE", "merges.txt", "tekken.json"} <= set(files["published"]) <= there.keys()
    assert not expected & there.keys()
    told = " ".join(f"{message} {fields}" for _, message, fields in observer.lines)
    for name, reason in files["left_out"].items():
        assert name in told
        assert reason in told


def poisoned(tensor, position, value):
    tensor = tensor.clone()
    tensor.view(-1)[position] = value
    return tensor


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "opt", "bloom", "qwen2"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nothing_that_is_not_finite_is_published_and_the_message_names_and_counts_it(name, value, tmp_path, inputs):
    clean = load_file(save_model(tmp_path / "clean", name) / "model.safetensors")
    kinds = {key.rpartition("layers.")[2].lstrip("012h.") if "1" in key else key for key in clean}
    chosen = [next(key for key in clean if key.endswith(kind)) for kind in sorted(kinds)]
    assert len(chosen) > 8
    for number, key in enumerate(chosen[:: 3 if value != value else 7]):
        folder = shutil.copytree(tmp_path / "clean", tmp_path / "poisoned", dirs_exist_ok=True)
        save_file({**clean, key: poisoned(clean[key], -1, value)}, folder / "model.safetensors")
        output = tmp_path / f"out {number}"
        with pytest.raises(Exception, match=rf"{key} holds 1 values that are not finite, of {clean[key].numel()};"):
            job(folder, inputs, output)
        assert not (output / "manifest.json").exists()
