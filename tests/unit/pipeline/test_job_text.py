"""Text that a job has drawn is kept in its work directory, and drawn anew where it would be other text."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from secateur_service.admission import AccessPolicy, admit
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.opening import open_checkpoint
from secateur_service.pipeline.job_text import draw_job_text
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.settings import Settings
from secateur_service.sources import ReferenceRefusedError, open_sources
from support.models import save_corpora, save_model, spec_data

SOURCES = open_sources(Settings(), everywhere=True)
GENERATION = {"prefix_tokens": 12, "new_tokens": 24, "dropped_share": 0.25}
WAYS = {"as it is": {}, "written by the model": {"generation": GENERATION}, "in a template": {"chat_template": True}}
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def places(tmp_path):
    """A model whose vocabulary lacks most of what is not English, and corpora."""
    model = save_model(tmp_path / "model", vocab_size=32)
    vocabulary = {name: number for number, name in enumerate(["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz "])}
    letters = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    letters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(model)
    return model, *save_corpora(tmp_path)


@pytest.fixture
def draw(places, tmp_path):
    """Draw the text of a job as an attempt does; `calibration` is laid over its specification."""
    resolved = {}

    def go(*, load=AutoModelForCausalLM.from_pretrained, observer=None, **calibration):
        key = json.dumps(calibration, sort_keys=True)
        if key not in resolved:  # later, the corpora may be gone
            data = spec_data(*places)
            data["calibration"] |= calibration
            resolved[key] = admit(data, AccessPolicy(SOURCES, None, on_device=False)).resolved
        (tmp_path / "work").mkdir(exist_ok=True)
        checkpoint = open_checkpoint(places[0])
        heard = observer or RecordingObserver()
        return draw_job_text(
            resolved[key], checkpoint, SOURCES, heard, tmp_path / "work", lambda: load(places[0]), Meter(heard)
        )

    return go


def plain(drawn):
    """What was drawn, comparable; the hashes of documents are only there while it is drawn."""
    return [
        {
            name: {
                key: value.tolist() if isinstance(value, torch.Tensor) else value
                for key, value in vars(sample).items()
                if key != "document_hashes"
            }
            for name, sample in samples.items()
        }
        for samples in (drawn.calibration, drawn.evaluation)
    ]


def load_nothing(_folder):
    raise AssertionError("the model was loaded once more")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_attempt_that_goes_on_has_the_same_text_although_the_corpora_are_gone(draw, places, way):
    first = draw(**way)
    assert [sorted(samples) for samples in (first.calibration, first.evaluation)] == [["de", "uk"], ["de", "en", "uk"]]
    for folder in places[1:]:
        shutil.rmtree(folder)
    again = draw(**way, load=load_nothing)
    assert plain(again) == plain(first)
    calibration, evaluation = again.calibration, again.evaluation
    assert (
        (again.beginning, again.separator) == (first.beginning, first.separator) == ((), ())
    )  # a vocabulary of letters
    assert calibration["de"].tokens.dtype == torch.int64
    assert calibration["de"].identified is not None
    assert evaluation["uk"].unknown_tokens > evaluation["en"].unknown_tokens > 0
    assert {sample.dropped is not None for sample in calibration.values()} == {"generation" in way}
    assert {sample.dropped for sample in evaluation.values()} == {None}
    if "generation" not in way:
        assert calibration["uk"].identified.share > 0.9


@pytest.mark.parametrize("change", [{"seed": 1}, {"identify_languages": False}, {"samples": 8}], ids=str)
def test_with_another_specification_it_is_drawn_anew(draw, places, change):
    first = draw()
    other = draw(**change)
    assert plain(other) != plain(first)
    shutil.rmtree(places[1])
    assert plain(draw(**change)) == plain(other)
    with pytest.raises(ReferenceRefusedError):  # only the latest is kept
        draw()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_with_another_tokenizer_it_is_drawn_anew(draw, places, name):
    first = draw(chat_template=True)
    (places[1] / "de.txt").write_text("nun steht hier etwas anderes\n" * 2 + "und noch viel mehr davon, " * 80)
    assert plain(draw(chat_template=True)) == plain(first)
    path = places[0] / name
    path.write_text(path.read_text() + "\n")
    assert plain(draw(chat_template=True))[0]["de"] != plain(first)[0]["de"]


def test_text_that_another_model_wrote_is_not_taken_and_other_text_does_not_depend_on_the_model(draw, places):
    written = draw(generation=GENERATION)
    save_model(places[0].with_name("other"), vocab_size=32, seed=1)
    shutil.copyfile(places[0].with_name("other") / "model.safetensors", places[0] / "model.safetensors")
    again = draw(generation=GENERATION)
    assert again.calibration["de"].digest() != written.calibration["de"].digest()
    assert again.evaluation["de"].digest() == written.evaluation["de"].digest()
    taken = draw()
    save_model(places[0].with_name("third"), vocab_size=32, seed=2)
    shutil.copyfile(places[0].with_name("third") / "model.safetensors", places[0] / "model.safetensors")
    shutil.rmtree(places[1])
    assert plain(draw()) == plain(taken)


def test_the_model_is_not_loaded_where_it_has_nothing_to_write(draw):
    assert draw(load=load_nothing).calibration["de"].num_tokens == 3 * 64


def test_the_log_tells_of_the_writing_and_of_what_was_drawn(draw):
    observer = RecordingObserver()
    drawn = draw(generation=GENERATION, observer=observer)
    told = [fields for _, message, fields in observer.lines if message == "writing calibration text"]
    for language in ("de", "uk"):
        tokens = [fields["tokens"] for fields in told if fields["language"] == language]
        assert tokens == sorted(tokens)
        assert tokens[-1] == 3 * 64
    lines = {fields["language"]: fields for _, message, fields in observer.lines if message == "calibration text drawn"}
    assert lines["de"]["tokens"] == 3 * 64
    assert lines["de"]["dropped"] == drawn.calibration["de"].dropped > 0
    assert not any("dropped" in fields for _, message, fields in observer.lines if message == "evaluation text drawn")


def test_a_model_without_a_template_is_refused(draw, places):
    (places[0] / "chat_template.jinja").unlink()
    with pytest.raises(ModelRefusedError, match=r"no chat template; leave calibration\.chat_template"):
        draw(chat_template=True)
    assert draw()
