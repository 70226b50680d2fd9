"""What is written need not look like what is read: a plan drops a block, half of the channels and a third of the words.

The result is read by transformers alone, whose bits per byte are those of the report.
"""

import json
import math
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from secateur_service.admission import AccessPolicy, admit
from secateur_service.errors import CancelledError
from secateur_service.library import run_here
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.plan import OutputPlan
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.models import build_model, save_corpora, spec_data
from support.reloading import bits_per_byte, held_out, loaded

WORDS = 450
BLOCKS, CHANNELS = (0, 2), 48
LANGUAGES = ["de", "uk", "en"]


def save_word_tokenizer(folder, corpus):
    """Byte-pair encoding with some two hundred merges; as Llama's, it begins a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sorted(corpus.glob("*.txt"))], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert tokenizer.get_vocab_size() == WORDS
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    calibration, evaluation = save_corpora(folder)
    build_model("llama", vocab_size=WORDS).save_pretrained(folder / "model")
    save_word_tokenizer(folder / "model", calibration)
    return folder / "model", calibration, evaluation


def smaller(dense):
    """Two of three blocks, every second channel of their feed-forward layers, two of three words, in another order."""
    folder = dense.tokenizer_folder
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    by_id = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    rows = [*reversed(range(2, 2 * WORDS // 3)), 0, 1]  # merges come in the order of the ids of what they make
    new = {row: position for position, row in enumerate(rows)}
    kept = {by_id[row]: position for row, position in new.items()}
    merges = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) in kept]
    tokenizer["model"] |= {"vocab": kept, "merges": merges}
    for token in tokenizer["added_tokens"]:
        token["id"] = new[token["id"]]
    tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = [new[0]]
    channels = list(range(1, 96, 2))
    sizes = {"num_hidden_layers": len(BLOCKS), "intermediate_size": len(channels), "vocab_size": len(rows)}
    cuts = {dense.embedding_name: {0: rows}, dense.head_name: {0: rows}}
    for block in BLOCKS:
        cuts |= {f"model.layers.{block}.mlp.{name}_proj.weight": {0: channels} for name in ("gate", "up")}
        cuts |= {f"model.layers.{block}.mlp.down_proj.weight": {1: channels}}
    return OutputPlan(
        dense,
        {**dense.config, **sizes, "bos_token_id": new[0], "eos_token_id": new[1]},
        BLOCKS,
        cuts,
        {"tokenizer.json": json.dumps(tokenizer).encode()},
    )


def without_a_block(dense):
    """With the tokens of the dense model."""
    return OutputPlan(dense, {**dense.config, "num_hidden_layers": len(BLOCKS)}, BLOCKS)


def run(scene, folder, plan, *, observer=None, **pruning):
    sources = open_sources(Settings(), everywhere=True)
    data = spec_data(*scene, **{"method": "sparsegpt", "sparsity": 0.5, **pruning})
    spec = admit(data, AccessPolicy(sources, destinations=None, on_device=False)).resolved
    machine = Machine(folder / ".work", threads=1)
    return run_here(spec, sources, folder, machine, observer or RecordingObserver(), plan)


@pytest.mark.parametrize("order", ["block", "true_sequential", "dense"])
@pytest.mark.parametrize("plan", [smaller, without_a_block], ids=["smaller", "without a block"])
def test_the_result_loads_and_has_the_bits_per_byte_of_the_report(scene, tmp_path, plan, order):
    report = run(scene, tmp_path, plan, order=order).report
    model, tokenizer = loaded(tmp_path / "checkpoint")
    dense, dense_tokenizer = loaded(scene[0])
    assert report.output.parameters == model.num_parameters() < report.model.parameters
    assert report.output.blocks == len(model.model.layers) == len(report.blocks) == 2
    assert report.sparsity.pruned_layers == pytest.approx(0.5, abs=0.01)
    for entry in report.evaluation:
        sample = held_out(*scene, LANGUAGES)[entry.language]
        before, tokens, size = bits_per_byte(dense, dense_tokenizer, sample)
        assert (entry.tokens, entry.bytes) == (tokens, size)
        assert entry.dense_bits_per_byte == pytest.approx(before, rel=1e-5)
        after, tokens, size = bits_per_byte(model, tokenizer, sample)
        assert (entry.pruned_tokens, entry.pruned_bytes) == (tokens, size)
        assert entry.pruned_bits_per_byte == pytest.approx(after, rel=1e-5)
        growth = math.log(entry.perplexity_ratio) * entry.tokens / entry.bytes / math.log(2)
        assert growth == pytest.approx(after - before, rel=1e-4)
        longer = entry.pruned_tokens > entry.tokens
        assert longer == (plan is smaller)
    told = [block.snr_db for block in report.blocks]
    assert all(told) == (plan is without_a_block)


def test_what_is_kept_is_what_was_there(scene, tmp_path):
    run(scene, tmp_path, smaller, method="magnitude", sparsity=0.01)
    model, tokenizer = loaded(tmp_path / "checkpoint")
    dense, dense_tokenizer = loaded(scene[0])
    text = "Der erste Satz, ein weiterer."
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    for name, token in tokenizer.get_vocab().items():
        row = dense.get_input_embeddings().weight[dense_tokenizer.get_vocab()[name]]
        assert torch.equal(model.get_input_embeddings().weight[token], row)
    for kept, block in zip(model.model.layers, BLOCKS, strict=True):
        original = dense.model.layers[block]
        assert torch.equal(kept.input_layernorm.weight, original.input_layernorm.weight)
        same = kept.mlp.up_proj.weight == original.mlp.up_proj.weight[1:96:2]
        assert same.float().mean() > 0.98


class Stops(RecordingObserver):
    """Stops the job once its first block is finished."""

    def check(self):
        if self.blocks:
            raise CancelledError("enough")


@pytest.mark.parametrize("order", ["block", "dense"])
def test_an_interrupted_job_resumes_with_the_same_bytes(scene, tmp_path, order):
    whole = run(scene, tmp_path / "whole", smaller, order=order)
    with pytest.raises(CancelledError):
        run(scene, tmp_path / "twice", smaller, order=order, observer=Stops())
    resumed = run(scene, tmp_path / "twice", smaller, order=order)
    assert resumed.resumed_blocks == 1
    assert resumed.report.to_bytes() == whole.report.to_bytes()
    first, second = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name / "checkpoint").iterdir())}
        for name in ("whole", "twice")
    )
    assert first == second


def test_another_plan_does_not_use_what_the_one_before_finished(scene, tmp_path):
    with pytest.raises(CancelledError):
        run(scene, tmp_path, smaller, observer=Stops())
    assert run(scene, tmp_path, without_a_block).resumed_blocks == 0


def test_progress_reaches_its_end_and_counts_what_is_done(scene, tmp_path):
    observer = RecordingObserver()
    run(scene, tmp_path, smaller, observer=observer)
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-2] > 0.97


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"blocks": ()}, "keeps blocks"),
        ({"blocks": (2, 0)}, "in order"),
        ({"blocks": (0, 3)}, "keeps blocks"),
        ({"kept": {"model.norm.bias": {0: [1]}}}, "does not have"),
        ({"kept": {"model.norm.weight": {0: [64]}}}, "lie in it"),
        ({"kept": {"model.norm.weight": {0: [1, 1]}}}, "each once"),
        ({"kept": {"model.norm.weight": {1: [1]}}}, "dimension 1"),
    ],
)
def test_a_plan_that_does_not_belong_to_the_model_is_refused(scene, changes, told):
    dense = open_checkpoint(scene[0])
    plain = {"config": dense.config, "blocks": (0, 1, 2), "kept": {}}
    with pytest.raises(ModelRefusedError, match=told):
        OutputPlan(dense, **{**plain, **changes})


def test_a_plan_whose_configuration_says_something_else_is_refused(scene, tmp_path):
    shutil.copytree(scene[0], tmp_path / "model")

    def contradicts(dense):
        return OutputPlan(dense, dense.config, (0, 2))

    with pytest.raises(Exception, match="blocks"):
        run(scene, tmp_path / "out", contradicts)
