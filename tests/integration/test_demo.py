import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from secateur_service.commands.demo.command import EVALUATION_TOKENS, MIX, SAMPLES, SEQUENCE_LENGTH
from secateur_service.commands.demo.corpora import LANGUAGES, read_split, write_corpora
from secateur_service.commands.demo.service import ServiceDidNotStartError, running_service
from secateur_service.commands.demo.tokenizer import BOS_ID, EOS_ID, VOCABULARY_SIZE, save_byte_tokenizer
from secateur_service.commands.demo.training import ensure_model
from support.processes import is_running
from support.waiting import HANG_SECONDS, until


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The demo's model after far fewer steps than the demo takes."""
    folder = tmp_path_factory.mktemp("demo") / "garden-llama"
    losses = []
    assert ensure_model(folder, steps=40, report=lambda _step, _steps, loss: losses.append(loss)) is True
    assert len(losses) == 40
    assert losses[-1] < 0.7 * losses[0]
    return folder


def test_the_tokenizer_gives_one_token_a_byte_and_loses_nothing(tmp_path):
    save_byte_tokenizer(tmp_path, max_length=256)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Сад, ¿qué? 花園 🌱  two  spaces\tand\nlines " + "".join(map(chr, range(32, 256)))
    beginning, *ids = tokenizer(text)["input_ids"]
    assert beginning == BOS_ID
    assert len(ids) == len(text.encode())
    assert set(ids).isdisjoint({BOS_ID, EOS_ID})
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == VOCABULARY_SIZE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BOS_ID, EOS_ID)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_texts_split_into_enough_training_and_held_out_sentences(language):
    split = read_split(language)
    assert not set(split.training) & set(split.held_out)
    tokens = {name: sum(len(line.encode()) + 2 for line in lines) for name, lines in vars(split).items()}
    assert tokens["held_out"] >= EVALUATION_TOKENS
    assert tokens["training"] >= SAMPLES // len(MIX) * SEQUENCE_LENGTH


def test_the_corpora_are_one_file_per_language_and_share_no_sentence(tmp_path):
    calibration, evaluation = write_corpora(tmp_path)
    for language in LANGUAGES:
        seen, unseen = ((folder / f"{language}.txt").read_text().splitlines() for folder in (calibration, evaluation))
        assert seen
        assert unseen
        assert not set(seen) & set(unseen)


def test_the_trained_model_is_a_complete_checkpoint_that_beats_a_guess(model):
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = torch.tensor([tokenizer(" ".join(read_split("de").held_out[:10]))["input_ids"][:200]])
    with torch.no_grad():
        loss = loaded(input_ids=tokens, labels=tokens).loss
    assert loss.exp() < VOCABULARY_SIZE / 8
    assert json.loads((model / "config.json").read_text())["dtype"] == "bfloat16"
    assert sorted(path.name for path in model.parent.iterdir()) == ["garden-llama"]


def test_a_model_that_is_there_is_not_trained_again(model):
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert ensure_model(model, report=lambda *_: pytest.fail("it was trained again")) is False
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_training_is_repeatable(tmp_path):
    for name in ("a", "b"):
        ensure_model(tmp_path / name, steps=2)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_training_that_breaks_off_leaves_nothing_and_is_made_good(tmp_path):
    def stop(step, steps, loss):
        raise KeyboardInterrupt

    (tmp_path / "model.partial-killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        ensure_model(tmp_path / "model", steps=2, report=stop)
    assert list(tmp_path.iterdir()) == []
    assert ensure_model(tmp_path / "model", steps=1) is True


def test_the_service_answers_while_it_is_wanted_and_is_gone_afterwards(tmp_path):
    with running_service(tmp_path / "service", file_root=tmp_path) as address:
        pid = json.loads((tmp_path / "service/ready.json").read_text())["pid"]
        with secateur.Client(address) as client:
            assert "wanda" in client.info().methods
    assert not is_running(pid)


def test_a_service_that_cannot_start_is_reported_with_its_log(tmp_path):
    (tmp_path / "service" / "secateur.sqlite3").mkdir(parents=True)
    with (
        pytest.raises(ServiceDidNotStartError, match="cannot be opened"),
        running_service(tmp_path / "service", file_root=tmp_path),
    ):
        pytest.fail("it started")


def start_demo(data_dir, model):
    inputs = data_dir / "inputs"
    shutil.copytree(model, inputs / "garden-llama")
    command = [sys.executable, "-m", "secateur_service", "demo", "--data-dir", str(data_dir)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
    )


def test_the_demo_ends_with_the_table_and_with_files_that_are_there(tmp_path, model):
    demo = start_demo(tmp_path / "data", model)
    output, _ = demo.communicate(timeout=HANG_SECONDS)
    assert demo.returncode == 0, output
    for language in LANGUAGES:
        assert f"│ {language} " in output
    assert "es (Spanish) was evaluated but has no weight" in output
    assert "SpecWarning" not in output
    report = output.split("Report: ")[1].split("\n")[0].strip()
    checkpoint = output.split("Checkpoint: ")[1].split("\n")[0].strip()
    assert Path(report).stat().st_size > 10_000
    AutoModelForCausalLM.from_pretrained(checkpoint)
    figures = json.loads(Path(report).with_suffix(".json").read_text())
    assert figures["sparsity"]["pruned_layers"] == pytest.approx(0.5, abs=1e-3)
    assert {entry["language"] for entry in figures["evaluation"] if not entry["in_mix"]} == {"es"}


def test_a_demo_that_is_terminated_stops_its_service(tmp_path, model):
    demo = start_demo(tmp_path / "data", model)
    ready = tmp_path / "data/service/ready.json"
    until(lambda: ready.exists() or demo.poll() is not None)
    pid = json.loads(ready.read_text())["pid"]
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=HANG_SECONDS)
    assert demo.returncode != 0
    assert not is_running(pid)
