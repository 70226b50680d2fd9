"""Turns what a pass measured into the public report and result."""

from __future__ import annotations

from collections.abc import Sequence

from secateur_service.evaluation.block_parts import BudgetPart, RemovedBlockPart
from secateur_service.evaluation.continuations import ContinuedLanguage
from secateur_service.evaluation.intervals import intervals
from secateur_service.evaluation.language_parts import AffinityPart, LanguageNeuronsPart
from secateur_service.evaluation.parts import (
    CalibrationLanguage,
    EvaluationLanguage,
    JobPart,
    ModelPart,
    OutputPart,
    TaskPart,
    VocabularyLanguage,
    VocabularyPart,
    WindowsPart,
)
from secateur_service.evaluation.report import Report, build_report
from secateur_service.evaluation.windows import context_of
from secateur_service.models.tensors import DTYPES
from secateur_service.pipeline.job_text import JobText
from secateur_service.pipeline.shrinking import Shrinkage
from secateur_service.pipeline.streaming_pass import PassResult
from secateur_service.records.result import JobResult, LanguageResult
from secateur_service.sizing.serving import cache_bytes, decoding_bytes
from secateur_service.spec import PruneSpec


def report_of(
    job: JobPart,
    spec: PruneSpec,
    shrinkage: Shrinkage,
    model_digest: str,
    text: JobText,
    tasks: Sequence[TaskPart],
    continuations: Sequence[ContinuedLanguage],
    passed: PassResult,
    affinity: AffinityPart | None = None,
) -> Report:
    """The report of a job, from its text, the figures of its tasks, what was continued, and the measured losses."""
    weights = spec.calibration.mix
    dense, output = shrinkage.plan.dense, shrinkage.plan.output()
    tokens = next(iter(text.evaluation.values())).tokens.shape[1]
    return build_report(
        job=job,
        model=ModelPart(
            uri=spec.model.uri,
            digest=model_digest,
            model_type=dense.model_type,
            parameters=dense.parameters,
            blocks=dense.num_blocks,
            size_bytes=dense.size_bytes,
            decoding_bytes=decoding_bytes(dense),
            cache_bytes=cache_bytes(dense),
            dtype=str(DTYPES[dense.weight_dtype]).removeprefix("torch."),
            max_positions=dense.max_sequence_length,
            vocabulary=dense.tensors[dense.embedding_name].shape[0],
        ),
        output=OutputPart(
            parameters=output.parameters,
            blocks=output.num_blocks,
            size_bytes=output.size_bytes,
            decoding_bytes=decoding_bytes(output),
            cache_bytes=cache_bytes(output),
        ),
        windows=WindowsPart(
            tokens=tokens,
            beginning=text.beginning,
            separator=text.separator,
        ),
        spec=spec.model_dump(mode="json"),
        calibration=[
            CalibrationLanguage.of(
                language=name,
                weight=weights[name],
                documents=sample.documents,
                sequences=sample.tokens.shape[0],
                tokens=sample.num_tokens,
                text_tokens=sample.text_tokens,
                bytes=sample.num_bytes,
                digest=sample.digest(),
                unknown_tokens=sample.unknown_tokens,
                dropped_texts=sample.dropped,
                rows_without_text=sample.rows_without_text,
                cut_texts=sample.cut_texts,
                identified=sample.identified,
            )
            for name, sample in text.calibration.items()
        ],
        evaluation=[
            EvaluationLanguage.of(
                language=name,
                in_mix=weights.get(name, 0) > 0,
                windows=sample.tokens.shape[0],
                documents=sample.documents,
                digest=sample.digest(),
                dense=passed.dense[name],
                pruned=passed.pruned[name],
                likeness=passed.likeness.get(name),
                intervals=intervals(name, passed.dense[name], passed.pruned[name], passed.likeness.get(name)),
                rows_without_text=sample.rows_without_text,
                cut_texts=sample.cut_texts,
                identified=sample.identified,
            )
            for name, sample in text.evaluation.items()
        ],
        blocks=passed.blocks,
        vocabulary=_vocabulary(shrinkage, passed),
        removed_blocks=[RemovedBlockPart.model_validate(entry.model_dump()) for entry in shrinkage.file.removed_blocks],
        budget=BudgetPart.model_validate(found.model_dump()) if (found := shrinkage.file.budget) else None,
        tasks=tasks,
        continuations=continuations,
        affinity=affinity,
        language_neurons=LanguageNeuronsPart.model_validate(passed.neurons) if passed.neurons else None,
        context=context_of(passed.dense, tokens),
    )


def _vocabulary(shrinkage: Shrinkage, passed: PassResult) -> VocabularyPart | None:
    if shrinkage.rows is None:
        return None
    languages = {}
    expected = shrinkage.file.vocabulary
    extra_tokens, counted_bytes = (expected.extra_tokens, expected.counted_bytes) if expected else ({}, {})
    for name in dict.fromkeys((*extra_tokens, *passed.dense)):
        dense, pruned = passed.dense.get(name), passed.pruned.get(name)
        languages[name] = VocabularyLanguage(
            expected_extra_tokens=extra_tokens.get(name),
            extra_tokens=pruned.tokens / dense.tokens - 1 if dense and pruned else None,
            coverage=shrinkage.coverage.get(name),
            counted_bytes=counted_bytes.get(name),
        )
    dense_model = shrinkage.plan.dense
    rows_before = dense_model.tensors[dense_model.embedding_name].shape[0]
    return VocabularyPart(rows=len(shrinkage.rows), rows_before=rows_before, languages=languages)


def result_of(report: Report, uri: str, digest: str) -> JobResult:
    """The headline figures of a report, with the location of its manifest."""
    return JobResult(
        manifest_uri=uri,
        manifest_sha256=digest,
        sparsity=report.sparsity.pruned_layers,
        languages=tuple(
            LanguageResult(
                language=entry.language,
                dense_perplexity=entry.dense_perplexity,
                pruned_perplexity=entry.pruned_perplexity,
                dense_bits_per_byte=entry.dense_bits_per_byte,
                pruned_bits_per_byte=entry.pruned_bits_per_byte,
            )
            for entry in report.evaluation
        ),
        parameters=report.output.parameters,
        dense_parameters=report.model.parameters,
        model_digest=report.model.digest,
    )
