"""Jobs whose report shows how both models continue texts: as transformers alone has the published files do it."""

import gc
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from secateur_service.errors import CancelledError
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.sizing import continuations, preflight
from support.shrinking import DEPTH, VOCABULARY, WIDTH, admitted, data_of, run
from support.vocabularies import save_scene

NEW = 48


def whole_models():
    """How many models of this process have their weights in memory."""
    models = [it for it in gc.get_objects() if issubclass(type(it), PreTrainedModel) and hasattr(it, "lm_head")]
    return sum(model.lm_head.weight.device.type != "meta" for model in models)


class Counts(RecordingObserver):
    """Counts whole models each time that one of them has continued the texts."""

    def __init__(self):
        super().__init__()
        self.before, self.counts = whole_models(), []

    def log(self, level, message, **fields):
        super().log(level, message, **fields)
        if message == "texts continued":
            self.counts.append(whole_models() - self.before)


class StopsBetween(RecordingObserver):
    """Stops the job when one of its models has continued the texts."""

    def check(self):
        if any(message == "texts continued" for _, message, _ in self.lines):
            raise CancelledError("enough")


def data(model, corpora):
    asked = data_of(model, corpora, pruning={"method": "wanda", "sparsity": 0.5}, **VOCABULARY, **WIDTH, **DEPTH)
    asked["evaluation"] |= {"continuations": 1}
    return asked


@torch.no_grad()
def continued(folder, prompts):
    """What transformers' model adds to each text, on its own and without a cache."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        begun = len(ids)
        for _ in range(NEW):
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token == model.generation_config.eos_token_id:
                break
            ids.append(token)
        before, whole = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:begun], ids))
        found.append(whole.removeprefix(before).rstrip("\N{REPLACEMENT CHARACTER}"))
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_both_models_write_as_transformers_reads_them_and_a_resumed_job_the_same(architecture, corpora, tmp_path):
    """The output is smaller in every way, has another vocabulary and zeros, and is rounded as it is written.

    The matrices of one are stored transposed.
    """
    model = save_scene(tmp_path / "model", architecture=architecture)
    observer = Counts()
    whole = run(data(model, corpora), tmp_path / "out", observer).report
    assert observer.counts == [1, 1]
    assert [entry.language for entry in whole.continuations] == ["uk", "en"]
    texts = [text for entry in whole.continuations for text in entry.texts]
    prompts = [text.prompt for text in texts]
    assert [text.dense for text in texts] == continued(model, prompts)
    assert [text.pruned for text in texts] == continued(tmp_path / "out" / "checkpoint", prompts)
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<p lang="uk" dir="ltr"><span class="prompt">', page)) == 2
    with pytest.raises(CancelledError):
        run(data(model, corpora), tmp_path / "twice", StopsBetween())
    resumed = run(data(model, corpora), tmp_path / "twice")
    assert resumed.resumed_blocks == len(whole.blocks)
    assert resumed.report.to_bytes() == whole.to_bytes()


def test_where_the_whole_model_does_not_fit_nothing_is_continued(corpora, tmp_path, monkeypatch):
    asked = data_of(save_scene(tmp_path / "model"), corpora, pruning={"method": "magnitude", "sparsity": 0.5})
    asked["evaluation"]["continuations"] = 0
    needed = admitted(asked).estimate.peak_host_bytes
    monkeypatch.setattr(preflight, "host_memory_bytes", lambda: needed)
    monkeypatch.setattr(continuations, "_LOGITS_COPIES", 10**6)  # as if the model were larger than what it is run in
    asked["evaluation"]["continuations"] = 1
    observer = RecordingObserver()
    assert not run(asked, tmp_path / "out", observer).report.continuations
    assert [line for line in observer.lines if "evaluation.continuations: the whole model does not fit" in line[1]]


def test_a_default_is_filled_in_once_and_none_is_none(model, corpora):
    asked = data(model, corpora)
    del asked["evaluation"]["continuations"]
    resolved = admitted(asked).resolved
    assert resolved.evaluation.continuations == 3
    assert admitted(resolved.model_dump(mode="json")).resolved == resolved
    asked["evaluation"]["continuations"] = 0
    assert admitted(asked).resolved.evaluation.continuations == 0
