"""A published model as transformers alone reads it, and its bits per byte over the text of a job."""

import math

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import draw_samples


def loaded(folder):
    """Model and tokenizer, which fit each other and the configuration exactly."""
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model, found = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def bits_per_byte(model, tokenizer, sample):
    """Of the text of a sample, window by window: each begins as a text, and has line breaks between documents.

    Returns:
        Bits per byte, scored tokens, and the bytes they stand for.
    """
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if "<unk>" in tokenizer.convert_ids_to_tokens(newline):  # nothing stands between documents then
        newline = []
    nats = size = tokens = 0
    for begin, end in sample.passages.spans:
        ids, sizes = [tokenizer.bos_token_id], []
        for number in range(begin[0], end[0] + 1):
            text = sample.passages.documents[number] if number < len(sample.passages.documents) else ""
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            if number > begin[0] and (number, -1, 0) < end:
                ids += newline
                sizes += [None] * len(newline)
            reached, starts = 0, []
            for token, (start, stop) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                starts.append(start)  # the bytes of a character may be tokens of their own
                if begin <= (number, start, starts.count(start) - 1) < end:
                    ids.append(token)
                    sizes.append(len(text[reached:stop].encode()))
                reached = max(reached, stop)
        logits = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        for row, token, of_text in zip(logits, ids[1:], sizes, strict=True):
            if of_text is not None:
                nats, size, tokens = nats - float(row[token]), size + of_text, tokens + 1
    return nats / math.log(2) / size, tokens, size


def held_out(model, calibration, evaluation, languages, *, length=64, tokens=512):
    """The evaluation text of a job, in the tokens of the dense model."""
    _, samples = draw_samples(
        AutoTokenizer.from_pretrained(model),
        calibration=FolderCorpus(calibration),
        evaluation=FolderCorpus(evaluation),
        languages=[],
        evaluation_languages=languages,
        sequences=1,
        evaluation_tokens=tokens,
        sequence_length=length,
        seed=0,
        check=lambda: None,
    )
    return samples
