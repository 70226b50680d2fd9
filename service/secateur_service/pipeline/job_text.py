"""The text of a job: opens corpora, draws sequences, and keeps them for later attempts.

An attempt that continues in the same work directory does not draw the text again: a corpus of the hub may be gone by
then, and text that the model generated itself is not generated twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from secateur_service.calibration.corpora import DEFAULT_TEXT_FIELD, Corpus, FolderCorpus, corpus_files
from secateur_service.calibration.documents import Render, Rendered
from secateur_service.calibration.hub_corpus import HubCorpus
from secateur_service.calibration.identification import Identified
from secateur_service.calibration.packing import Framing
from secateur_service.calibration.presets import PresetReference, parse_preset
from secateur_service.calibration.sampling import Passages, TextSample, Writer, draw_samples
from secateur_service.calibration.templates import render_conversation
from secateur_service.durable import file_digest, write_durably
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.pipeline.fetching import fetch
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.throttle import Throttle
from secateur_service.sizing.sequences import least_sequences
from secateur_service.sources import Sources
from secateur_service.sources.reference import HubReference
from secateur_service.spec import CalibrationSpec, PruneSpec

Samples = dict[str, TextSample]
_TENSORS = ("tokens", "token_bytes", "is_text", "document_of")
_NOT_FIGURES = (*_TENSORS, "document_hashes", "passages")
# Change this when the same specification draws different text, or keeps it in a different format.
_DRAWING = "4"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class JobText:
    """The text of a job.

    Attributes:
        calibration: by language.
        evaluation: by language.
        beginning: names of the tokens that begin every window.
        separator: names of the tokens between two documents of a window.
    """

    calibration: Samples
    evaluation: Samples
    beginning: tuple[str, ...]
    separator: tuple[str, ...]


def draw_job_text(
    spec: PruneSpec,
    checkpoint: Checkpoint,
    sources: Sources,
    observer: JobObserver,
    workdir: Path,
    load_model: Callable[[], Any],
    meter: Meter,
) -> JobText:
    """The calibration and the evaluation text of a job.

    Args:
        spec: the resolved specification.
        checkpoint: the model, with its tokenizer.
        load_model: returns the whole dense model, if it generates the text itself.
        sources: where corpora may be.
        observer: receives the progress and may stop the job.
        workdir: where the text is kept.
        meter: counts the bytes that are fetched, and the work where the model writes the text.

    Raises:
        ModelRefusedError: the tokenizer cannot be used.
        CorpusRefusedError: a corpus has too little text, or cannot be read.
    """
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    kept = workdir / "text.safetensors"
    key = _key(spec, checkpoint)
    drawn = _recall(kept, key)
    if drawn is None:
        writer = _writer(spec.calibration, tokenizer, load_model, observer, meter, 4.0 * checkpoint.parameters)
        drawn = _draw(spec, tokenizer, sources, observer, writer, meter)
        _keep(kept, key, drawn)
    for purpose, samples in zip(("calibration", "evaluation"), drawn, strict=True):
        for name, sample in samples.items():
            observer.log(
                "info",
                f"{purpose} text drawn",
                language=name,
                documents=sample.documents,
                tokens=sample.num_tokens,
                text_tokens=sample.text_tokens,
                bytes=sample.num_bytes,
                **({} if sample.dropped is None else {"dropped": sample.dropped}),
                **({"rows_without_text": sample.rows_without_text} if sample.rows_without_text else {}),
                **({"cut_texts": sample.cut_texts} if sample.cut_texts else {}),
            )
    framing = Framing.of(tokenizer, spec.calibration.document_separator)
    return JobText(
        *drawn,
        tuple(tokenizer.convert_ids_to_tokens(framing.beginning)),
        tuple(tokenizer.convert_ids_to_tokens(framing.separator)),
    )


def _writer(
    calibration: CalibrationSpec,
    tokenizer: Any,
    load_model: Callable[[], Any],
    observer: JobObserver,
    meter: Meter,
    operations: float,
) -> Writer | None:
    """What writes text, if the model is to; a token takes so many operations, with judging the text."""
    if calibration.generation is None:
        return None
    from secateur_service.calibration.generation import Sampling, SelfWriter

    def report(done: int, needed: int, language: str) -> None:
        observer.log("info", "writing calibration text", language=language, tokens=done, of_tokens=needed)

    throttle = Throttle(report)
    written: dict[str, int] = {}
    assert calibration.sequence_length is not None
    model = load_model()
    work = operations * calibration.samples * calibration.sequence_length
    meter.detail(work)
    meter.plan("write", work)
    meter.lap()

    def on_progress(done: int, needed: int, language: str) -> None:
        throttle(done, needed, language)
        meter.tick("write", operations * max(0, done - written.get(language, 0)))
        written[language] = done

    return SelfWriter(model, tokenizer, Sampling(**calibration.generation.model_dump()), calibration.seed, on_progress)


def _draw(
    spec: PruneSpec, tokenizer: Any, sources: Sources, observer: JobObserver, writer: Writer | None, meter: Meter
) -> tuple[Samples, Samples]:
    calibration, held_out = spec.calibration, spec.evaluation
    assert calibration.sequence_length is not None
    assert held_out.corpus is not None
    languages = list(calibration.mix)

    return draw_samples(
        tokenizer,
        calibration=calibration_corpus(spec, tokenizer, sources, observer, meter),
        evaluation=_open_corpus(
            held_out.corpus,
            held_out.text_field,
            held_out.languages,
            sources,
            observer,
            _renderer(tokenizer) if held_out.chat_template else None,
            meter,
        ),
        languages=languages,
        evaluation_languages=held_out.languages,
        sequences=calibration.samples_per_language,
        evaluation_tokens=held_out.tokens_per_language,
        least_evaluation_tokens=held_out.least_tokens,
        enough_documents=held_out.enough_documents,
        sequence_length=calibration.sequence_length,
        seed=calibration.seed,
        check=observer.check,
        separator=calibration.document_separator,
        writer=writer,
        identifies=calibration.identify_languages,
        least_sequences=least_sequences(spec.shrink, spec.reconstruction),
    )


def calibration_corpus(
    spec: PruneSpec, tokenizer: Any, sources: Sources, observer: JobObserver, meter: Meter
) -> Corpus:
    """The corpus of the calibration text.

    Args:
        spec: resolved.
        tokenizer: of the model, whose chat template may be asked for.
        sources: where the corpus may be.
        observer: receives the progress and may stop the job.
        meter: counts the bytes that are fetched.

    Raises:
        CorpusRefusedError: it cannot be read.
    """
    calibration = spec.calibration
    render = _renderer(tokenizer) if calibration.chat_template else None
    languages = list(calibration.mix)
    return _open_corpus(calibration.corpus, calibration.text_field, languages, sources, observer, render, meter)


def _open_corpus(
    corpus: str,
    text_field: str | None,
    languages: Sequence[str],
    sources: Sources,
    observer: JobObserver,
    render: Render | None,
    meter: Meter,
) -> Corpus:
    preset = parse_preset(corpus)
    if preset is not None:
        return _open_preset(preset, sources, render, meter)
    folder = fetch(sources, observer, "corpus", partial(corpus_files, languages=languages), corpus, meter)
    return FolderCorpus(folder, text_field or DEFAULT_TEXT_FIELD, render)


def _open_preset(reference: PresetReference, sources: Sources, render: Render | None, meter: Meter) -> Corpus:
    assert reference.revision is not None  # ensured by admission
    hub = sources.hub(HubReference("dataset", reference.preset.repository, reference.revision))
    return HubCorpus(reference.preset, reference.revision, hub.endpoint, hub.token, render, meter.fetched)


def _renderer(tokenizer: Any) -> Render:
    """Render a conversation, or a text as a user's message, with the model's chat template."""
    if not tokenizer.chat_template:
        remedy = "leave calibration.chat_template and evaluation.chat_template out"
        raise ModelRefusedError(f"its tokenizer has no chat template; {remedy}")

    def render(content: Any) -> str:
        messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
        if not all(isinstance(message, dict) and "role" in message for message in messages):
            raise ValueError(
                "it is not a conversation, a list of messages with role and content; set another text_field"
            )
        try:
            return render_conversation(tokenizer, messages)
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(f"the model's chat template does not accept it: {error}") from error

    return render


def _key(spec: PruneSpec, checkpoint: Checkpoint) -> str:
    """Digest of everything that the text depends on."""
    parts = [_DRAWING, spec.calibration.model_dump_json(), spec.evaluation.model_dump_json()]
    files = [checkpoint.tokenizer_folder / name for name in _TOKENIZER_FILES]
    parts += [f"{path.name} {file_digest(path)}" for path in files if path.exists()]
    if spec.calibration.generation is not None:
        parts.append(checkpoint.structure_digest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _keep(path: Path, key: str, drawn: tuple[Samples, Samples]) -> None:
    tensors: dict[str, Tensor] = {}
    figures = []
    for purpose, samples in enumerate(drawn):
        for name, sample in samples.items():
            tensors |= {f"{purpose}/{name}/{part}": getattr(sample, part) for part in _TENSORS}
            rest = {field: value for field, value in vars(sample).items() if field not in _NOT_FIGURES}
            found = sample.identified and vars(sample.identified)
            figures.append({**rest, "purpose": purpose, "identified": found})
            if sample.passages is not None:
                tensors[f"{purpose}/{name}/passages"] = _packed(sample.passages)
    write_durably(path, save(tensors, {"key": key, "figures": json.dumps(figures)}))


def _recall(path: Path, key: str) -> tuple[Samples, Samples] | None:
    if not path.exists():
        return None
    drawn: tuple[Samples, Samples] = ({}, {})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["key"] != key:
            return None
        for figures in json.loads(metadata["figures"]):
            purpose, name, found = figures.pop("purpose"), figures["language"], figures["identified"]
            figures["identified"] = found and Identified(**found)
            tensors = {part: file.get_tensor(f"{purpose}/{name}/{part}") for part in _TENSORS}
            place = f"{purpose}/{name}/passages"
            passages = _unpacked(file.get_tensor(place)) if place in file.keys() else None  # noqa: SIM118 - no mapping
            drawn[purpose][name] = TextSample(**tensors, **figures, passages=passages)
    return drawn


def _packed(passages: Passages) -> Tensor:
    """JSON bytes, because a header is limited; a rendered document includes its origin and its content mask."""
    documents = [
        [text, text.origin, "".join("01"[is_content] for is_content in text.is_content)]
        if isinstance(text, Rendered)
        else [text]
        for text in passages.documents
    ]
    return torch.frombuffer(bytearray(json.dumps([documents, passages.spans]).encode()), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> Passages:
    """The inverse of `_packed`."""
    documents = []
    plain_documents, plain_spans = json.loads(packed.numpy().tobytes())
    for text, *rest in plain_documents:
        document = text
        if rest:
            document = Rendered(text)
            document.origin, document.is_content = rest[0], [digit == "1" for digit in rest[1]]
        documents.append(document)
    spans = [(tuple(begin), tuple(end)) for begin, end in plain_spans]
    return Passages(tuple(documents), tuple(spans))
