"""From what a pass found to the report and the result that the world sees."""

from __future__ import annotations

from secateur_service import __version__
from secateur_service.evaluation.report import (
    CalibrationFigures,
    EvaluationFigures,
    ModelFigures,
    Report,
    WindowFigures,
    build_report,
)
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.tensors import DTYPES
from secateur_service.pipeline.streaming_pass import PassResult
from secateur_service.pipeline.text import DrawnText
from secateur_service.records.result import JobResult, LanguageResult
from secateur_service.spec import PruneSpec


def report_of(
    job_id: str,
    spec: PruneSpec,
    checkpoint: Checkpoint,
    model_digest: str,
    text: DrawnText,
    passed: PassResult,
) -> Report:
    """The report of a job, from the text that was drawn and the losses that were found."""
    weights = spec.calibration.weights
    return build_report(
        job_id=job_id,
        secateur_version=__version__,
        model=ModelFigures(
            uri=spec.model.uri,
            digest=model_digest,
            model_type=checkpoint.model_type,
            parameters=checkpoint.parameters,
            blocks=checkpoint.num_blocks,
            dtype=str(DTYPES[checkpoint.weight_dtype]).removeprefix("torch."),
        ),
        windows=WindowFigures(
            tokens=next(iter(text.evaluation.values())).tokens.shape[1],
            beginning=text.beginning,
            separator=text.separator,
        ),
        spec=spec.model_dump(mode="json"),
        calibration=[
            CalibrationFigures(
                language=name,
                weight=weights[name],
                documents=sample.documents,
                sequences=sample.tokens.shape[0],
                tokens=sample.num_tokens,
                text_tokens=sample.text_tokens,
                bytes=sample.num_bytes,
                digest=sample.digest(),
                unknown_tokens=sample.unknown_tokens,
                dropped=sample.dropped,
                rows_without_text=sample.rows_without_text,
                cut_texts=sample.cut_texts,
                identified=sample.identified,
            )
            for name, sample in text.calibration.items()
        ],
        evaluation=[
            EvaluationFigures(
                language=name,
                windows=sample.tokens.shape[0],
                tokens=passed.dense[name].tokens,
                bytes=passed.dense[name].bytes,
                dense_nats=passed.dense[name].nats,
                pruned_nats=passed.pruned[name].nats,
                rows_without_text=sample.rows_without_text,
                cut_texts=sample.cut_texts,
                identified=sample.identified,
            )
            for name, sample in text.evaluation.items()
        ],
        blocks=passed.blocks,
    )


def result_of(report: Report, uri: str, digest: str) -> JobResult:
    """The headline figures of a report, with where its manifest lies."""
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
    )
