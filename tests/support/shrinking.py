"""Jobs that make a model smaller, run here, and read back by transformers alone."""

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from secateur_service.admission import AccessPolicy, admit
from secateur_service.errors import CancelledError, InvalidSpecError
from secateur_service.library import run_here
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.reloading import bits_per_byte, held_out, loaded

LANGUAGES = ["uk", "en"]
VOCABULARY = {"vocabulary": {"extra_tokens": 0.02}}
WIDTH, HEADS, DEPTH = {"feed_forward": {"channels": 48}}, {"kv_heads": {"remove": 1}}, {"blocks": {"remove": 1}}
AXES = [VOCABULARY, WIDTH, HEADS, DEPTH, {**VOCABULARY, **WIDTH, **HEADS, **DEPTH}]

PARTS = {"vocabulary", "feed_forward", "blocks", "kv_heads", "plan", "budget"}


class Stops(RecordingObserver):
    """Stops the job once its first block is finished."""

    def check(self):
        if self.blocks:
            raise CancelledError("enough")


def data_of(model, corpora, *, pruning=None, mix=(("uk", 1.0),), **shrink):
    calibration, evaluation = corpora
    return {
        "model": {"uri": model.as_uri()},
        "calibration": {
            "corpus": calibration.as_uri(),
            "languages": [{"language": language, "weight": weight} for language, weight in mix],
            "samples": 4,
            "sequence_length": 64,
        },
        **({"pruning": pruning} if pruning else {}),
        "shrink": shrink if shrink.keys() & PARTS else {**VOCABULARY, **shrink},
        "evaluation": {
            "corpus": evaluation.as_uri(),
            "languages": LANGUAGES,
            "tokens_per_language": 512,
            "continuations": 0,
        },
    }


def admitted(data):
    return admit(data, AccessPolicy(open_sources(Settings(), everywhere=True), destinations=None, on_device=False))


def run(data, folder, observer=None, processes=1):
    return run_resolved(admitted(data).resolved, folder, observer, processes)


def run_resolved(spec, folder, observer=None, processes=1):
    sources = open_sources(Settings(), everywhere=True)
    machine = Machine(folder / ".work", threads=1, processes=processes)
    return run_here(spec, sources, folder, machine, observer or RecordingObserver())


def assert_reloads(model, corpora, folder, report):
    """transformers reads the result, and finds in it what the report says."""
    smaller, tokenizer = loaded(folder / "checkpoint")
    stored = smaller.state_dict()
    buffers = sum(buffer.numel() for name, buffer in smaller.named_buffers() if name in stored)
    assert smaller.num_parameters() + buffers == report.output.parameters < report.model.parameters
    if report.vocabulary:
        assert smaller.get_input_embeddings().num_embeddings == report.vocabulary.rows
        tokens = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json"))  # transformers may add its own
        assert sorted(tokens.get_vocab().values()) == list(range(report.vocabulary.rows))
    samples = held_out(model, *corpora, LANGUAGES)
    for entry in report.evaluation:
        after, tokens, size = bits_per_byte(smaller, tokenizer, samples[entry.language])
        assert (entry.pruned_tokens, entry.pruned_bytes) == (tokens, size)
        assert entry.pruned_bits_per_byte == pytest.approx(after, rel=1e-5)
    return smaller, tokenizer


def tensors_of(folder):
    """All tensors of a result's checkpoint, by name."""
    found = {}
    for path in sorted((folder / "checkpoint").glob("*.safetensors")):
        found |= load_file(path)
    return found


def assert_same_tensors(folder, another):
    """Two results have the same checkpoint."""
    one, other = tensors_of(folder), tensors_of(another)
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def assert_resumes_with_the_same_bytes(data, folder):
    """Stopped after a block and run again, a job ends like one that was not; returns the latter."""
    whole = run(data, folder / "whole")
    with pytest.raises(CancelledError):
        run(data, folder / "twice", Stops())
    resumed = run(data, folder / "twice")
    assert resumed.resumed_blocks >= 1
    assert resumed.report.to_bytes() == whole.report.to_bytes()
    assert_same_tensors(folder / "whole", folder / "twice")
    return whole


def refusals(data):
    with pytest.raises(InvalidSpecError) as caught:
        admitted(data)
    return {violation.field: violation.description for violation in caught.value.violations}
