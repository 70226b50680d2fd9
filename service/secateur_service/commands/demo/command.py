"""`secateur-service demo`: train a tiny model, start the service, prune through it, show what each language lost."""

from __future__ import annotations

import signal
import time
import warnings
from pathlib import Path
from types import FrameType
from urllib.parse import unquote, urlsplit

from rich.console import Console

import secateur
from secateur._terminal import clean, clean_lines, console
from secateur_service.commands.demo.corpora import LANGUAGES, write_corpora
from secateur_service.commands.demo.display import language_table, progress_bar
from secateur_service.commands.demo.service import ServiceDidNotStartError, running_service
from secateur_service.commands.demo.training import ensure_model

METHOD = "sparsegpt"
SPARSITY = 0.5
MIX = {"de": 0.5, "en": 0.3, "uk": 0.2}  # leaves out Spanish, so that the report shows what that costs
SAMPLES = 360
SEQUENCE_LENGTH = 128
EVALUATION_TOKENS = 4096


def run_demo(data_dir: Path, *, inputs_only: bool = False) -> int:
    """Run the demo.

    Args:
        data_dir: For everything it writes. A model trained there earlier is reused.
        inputs_only: Make the model and the text, and prune nothing.

    Returns:
        The exit code: 0, or 1 with the reason on the console.
    """
    terminal = console()
    data_dir = data_dir.expanduser().resolve()
    inputs = data_dir / "inputs"
    previous = signal.signal(signal.SIGTERM, _leave)
    try:
        model = inputs / "garden-llama"
        _train(terminal, model)
        calibration, evaluation = write_corpora(inputs / "corpora")
        if inputs_only:
            for what, path in (("Model", model), ("Calibration", calibration), ("Evaluation", evaluation)):
                terminal.print(f"{what}: {path.as_uri()}", highlight=False, soft_wrap=True)
            return 0
        with running_service(data_dir / "service", file_root=inputs) as address:
            terminal.print(
                f"Service: listening on {address}, log in {data_dir / 'service' / 'service.log'}", soft_wrap=True
            )
            with secateur.Client(address) as client:
                _prune(terminal, client, model, calibration, evaluation)
    except (ServiceDidNotStartError, secateur.SecateurError) as error:
        terminal.print(clean_lines(f"The demo failed: {error}"), style="bold red", markup=False, soft_wrap=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _train(terminal: Console, model: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    if model.exists():
        terminal.print(f"Model: {model} is trained already", soft_wrap=True)
        return
    title = f"Training a tiny model on {', '.join(LANGUAGES)}"
    with progress_bar(terminal, title) as bar:
        ensure_model(model, report=lambda step, steps, loss: bar.update(step / steps, f"loss {loss:.2f} nats a byte"))


def _prune(terminal: Console, client: secateur.Client, model: Path, calibration: Path, evaluation: Path) -> None:
    """Submit the job, follow it to its end and show its result."""
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", secateur.SpecWarning)  # that there may be too little text: there is enough
        job = client.prune(
            model.as_uri(),
            corpus=calibration.as_uri(),
            languages=MIX,
            samples=SAMPLES,
            sequence_length=SEQUENCE_LENGTH,
            method=METHOD,
            sparsity=SPARSITY,
            evaluation_corpus=evaluation.as_uri(),
            evaluation_languages=list(LANGUAGES),
            tokens_per_language=EVALUATION_TOKENS,
            labels={"purpose": "demo"},
        )
    mix = ", ".join(f"{language} {weight:.0%}" for language, weight in MIX.items())
    terminal.print(f"Job: {job.name}, {METHOD} at {SPARSITY:.0%}, calibrated on {mix}", highlight=False, soft_wrap=True)
    with progress_bar(terminal, "Pruning") as bar:
        fraction, stage = 0.0, ""
        for event in job.watch():
            if isinstance(event, secateur.StageEvent):
                stage = event.stage.lower()
            elif isinstance(event, secateur.ProgressEvent):
                fraction = event.progress.fraction
            bar.update(fraction, stage)
    result = job.result()
    folder = Path(unquote(urlsplit(result.manifest_uri).path)).parent
    terminal.print(language_table(result.report["evaluation"], MIX))
    for verdict in result.report["verdicts"]:
        terminal.print(clean(f"- {verdict['message']}"), markup=False, highlight=False)
    terminal.print(
        f"{result.sparsity:.2%} of the pruned layers' weights are zero, in {time.monotonic() - started:.0f} s from"
        " submission to result. Zeros alone make a model neither smaller nor faster to serve in today's "
        "general servers.",
        highlight=False,
    )
    terminal.print(f"Report:     {folder / 'report' / 'report.html'}", highlight=False, soft_wrap=True)
    terminal.print(f"Checkpoint: {folder / 'checkpoint'}", highlight=False, soft_wrap=True)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End the demo on SIGTERM as on Ctrl-C, so that the service is stopped on the way out."""
    raise KeyboardInterrupt
