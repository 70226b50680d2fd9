"""Which texts models continue, and whole models out of tensors that lie anywhere."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from secateur_service.calibration.sampling import Passages, TextSample
from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.building import assemble, load_whole, stored_tensors
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.continuations import Continuer, StoredModel, prompts_of
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.sizing.continuations import lengths
from secateur_service.spec import parse_spec
from support.models import save_model, spec_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, max_length=256)
    return AutoTokenizer.from_pretrained(folder)


def sample_of(*documents):
    nothing = torch.zeros(1, 1)
    return TextSample("de", nothing, nothing, nothing, len(documents), passages=Passages(documents, ()))


def test_prompts_are_beginnings_and_at_most_half_of_the_first_documents_short_ones_last(tokenizer):
    sample = sample_of("kurz und gut", "Es war einmal ein Wald am Meer.", "  ", "Im Wald stand ein altes Haus.")
    assert prompts_of(sample, tokenizer, 3, 8) == ["Es war", "Im Wald", "kurz"]
    assert prompts_of(sample, tokenizer, 1, 8) == ["Es war"]
    assert prompts_of(sample, tokenizer, 9, 1000) == ["kurz", "Es war einmal", "Im Wald stand"]


def test_a_prompt_ends_after_a_whole_character(tokenizer):
    assert prompts_of(sample_of("їжак біжить"), tokenizer, 1, 3) == ["їж"]  # the word is all there is
    assert prompts_of(sample_of("他是尚穆王世子尚济"), tokenizer, 1, 7) == ["他是尚"]  # no blanks
    assert prompts_of(sample_of(), tokenizer, 3, 8) == []


# Of Arabic with its vowels, and of Persian with a non-joiner: cut before a mark, after one, and at the non-joiner.
@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        ("كَتَبَ الوَلَدُ رِسالَةً", 21),
        ("كَتَبَ الوَلَدُ رِسالَةً", 23),
        ("او نامه می\u200cخواند هر روز", 18),
        ("او نامه می\u200cخواند هر روز", 22),
    ],
)
def test_a_mark_or_a_joiner_does_not_end_a_word(document, tokens, tokenizer):
    (prompt,) = prompts_of(sample_of(document), tokenizer, 1, tokens)
    assert document.startswith(f"{prompt} ")
    assert len(prompt.split()) < len(document.encode()[:tokens].decode(errors="ignore").split())


def test_a_model_with_a_short_context_takes_and_adds_fewer_tokens():
    assert lengths(None) == lengths(2048) == (32, 48)
    assert lengths(64) == (16, 32)
    assert sum(lengths(2)) <= 2


def pieces_of(checkpoint, rows):
    reader = TensorReader()
    for info in checkpoint.tensors.values():
        for first in range(0, info.rows, rows):
            yield info.name, first, reader.read_rows(info, first, min(first + rows, info.rows))


# Tied and not, with buffers that no checkpoint stores, experts, positions that are learnt, and single numbers.
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "mixtral", "opt projected", "bloom", "apertus"])
def test_a_model_out_of_pieces_is_the_one_that_transformers_loads(architecture, tmp_path):
    checkpoint = open_checkpoint(save_model(tmp_path / "model", architecture))
    state = torch.get_rng_state()
    ours = assemble(checkpoint, CPU, torch.float32, pieces_of(checkpoint, 50))
    assert torch.equal(torch.get_rng_state(), state)
    theirs = load_whole(checkpoint, CPU, torch.float32)
    tokens = torch.arange(3, 33).view(2, 15)
    assert torch.allclose(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits, atol=1e-5)
    assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id
    assert sum(tensor.numel() for _, tensor in stored_tensors(ours)) == checkpoint.parameters


def test_a_model_of_which_a_piece_is_missing_is_refused(tmp_path):
    checkpoint = open_checkpoint(save_model(tmp_path / "model"))
    some = (piece for piece in pieces_of(checkpoint, 50) if piece[:2] != ("model.embed_tokens.weight", 50))
    with pytest.raises(ModelRefusedError, match=r"model\.embed_tokens\.weight was not read as a whole"):
        assemble(checkpoint, CPU, torch.float32, some)


def test_a_model_that_transformers_does_not_load_is_refused_with_the_cause_and_what_to_check(tmp_path):
    checkpoint = open_checkpoint(save_model(tmp_path / "model", "mixtral"))
    weights = checkpoint.folder / "model.safetensors"
    tensors = load_file(weights)
    renamed = "model.layers.1.post_attention_layernorm.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != renamed}, weights, {"format": "pt"})
    with pytest.raises(ModelRefusedError, match=f"the checkpoint has no tensor {re.escape(renamed)}; check that"):
        load_whole(checkpoint, CPU, torch.float32)
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ModelRefusedError, match=r"cannot load the model as a whole \(\w+: .+\); check that the check"):
        load_whole(checkpoint, CPU, torch.float32)
    changed = replace(checkpoint, config={**checkpoint.config, "num_key_value_heads": 3})
    with pytest.raises(ModelRefusedError, match=r"^config\.json: num_key_value_heads is 3; expected a divisor of"):
        load_whole(changed, CPU, torch.float32)


class NoRoom(TensorReader):
    """Reads tensors until the memory of a device is full."""

    def read_rows(self, info, start, stop):
        raise torch.OutOfMemoryError(f"CUDA out of memory at rows {start} to {stop} of {info.name}")


def test_a_device_that_is_too_full_costs_the_look_and_not_the_job(tmp_path):
    model = save_model(tmp_path / "model")
    data = spec_data(model, tmp_path, tmp_path)
    data["evaluation"] |= {"languages": ["de"], "continuations": 2}
    observer = RecordingObserver()
    continuer = Continuer(parse_spec(data), CPU, torch.float32, observer, Meter(observer))
    samples = {"de": sample_of("Es war einmal ein Wald am Meer.")}
    full, free = (StoredModel(open_checkpoint(model), reader) for reader in (NoRoom(), TensorReader()))
    assert continuer.run(samples, free, full) == []
    (warning,) = (message for level, message, _ in observer.lines if level == "warning")
    assert warning.startswith("evaluation.continuations: the device has no room for the whole model")
