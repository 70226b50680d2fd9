"""The tasks of a job: resolved before anything is computed, asked in the pass, judged after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from secateur_service.calibration.templates import render_conversation
from secateur_service.evaluation.paired import compare
from secateur_service.evaluation.parts import TaskPart
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.plan import OutputPlan
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.pipeline.fetching import fetch
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.streaming_pass import PassResult
from secateur_service.sources import Sources
from secateur_service.spec import EvaluationSpec, PruneSpec
from secateur_service.tasks import has_harness
from secateur_service.tasks.harness import Asked, HarnessTasks, Template
from secateur_service.tasks.requests import RequestSet
from secateur_service.tasks.task_files import TaskFolder, TasksRefusedError, task_file_names

# What the harness takes for a model that does not say how long a text it takes, and whose tokenizer does not either.
_LONGEST = 2048
_NO_LIMIT = 10**9  # transformers' tokenizers say a number beyond it


@dataclass
class JobTasks:
    """Tasks with their requests.

    Attributes:
        tasks: as the harness has them.
        dense: the requests in the tokens of the dense model.
        output: the same in the tokens of the output.
        longest: tokens that the model takes.
    """

    tasks: HarnessTasks
    dense: RequestSet
    output: RequestSet
    longest: int

    @property
    def size(self) -> tuple[int, int]:
        """An upper bound on the tokens that run through the model, and the number of those that are scored."""
        requests = self.dense.requests
        return sum(len(request.tokens) - 1 for request in requests), sum(request.scored for request in requests)

    def in_output(self, plan: OutputPlan, tokenizer: Path) -> RequestSet:
        """The requests in the tokens of the output, whose vocabulary may be smaller.

        Raises:
            TasksRefusedError: an answer has more tokens there than the model takes.
        """
        if not plan.keeps_tokens:
            self.output = self.tasks.requests(load_tokenizer(tokenizer), self.longest)
        return self.output

    def figures(self, passed: PassResult) -> list[TaskPart]:
        """Every metric of every task that both models have for the same number of items, from what a pass found."""
        dense = self.tasks.scores(self.dense.joined(passed.dense_answers))
        pruned = self.tasks.scores(self.output.joined(passed.pruned_answers))
        of_output = {(scores.task, scores.metric, len(scores.values)): scores for scores in pruned}
        pairs = [(before, of_output.get((before.task, before.metric, len(before.values)))) for before in dense]
        return [compare(before, after) for before, after in pairs if after is not None]


def check_harness(spec: PruneSpec) -> None:
    """Check that the worker can ask the tasks at all; the replica that admitted the job may not have known.

    Raises:
        TasksRefusedError: it has no harness.
    """
    if spec.evaluation.tasks and not has_harness():
        raise TasksRefusedError(
            "evaluation.tasks: this worker has no lm-evaluation-harness; install the extra `tasks` on every worker "
            "(pip install 'secateur[service,tasks]') and retry the job, or leave the tasks out"
        )


def open_job_tasks(
    spec: PruneSpec, checkpoint: Checkpoint, sources: Sources, observer: JobObserver, meter: Meter
) -> JobTasks | None:
    """The tasks that a specification names; None if it names none.

    Args:
        spec: the resolved specification.
        checkpoint: the model, with its tokenizer.
        sources: where the files of tasks may be.
        observer: receives the progress and may stop the job.
        meter: counts the bytes of the files.

    Raises:
        TasksRefusedError: a task does not exist, or cannot be used.
        ModelRefusedError: the tokenizer cannot be used.
        ReferenceRefusedError, TransientError, ResourceError: the files cannot be fetched.
    """
    evaluation = spec.evaluation
    if not evaluation.tasks:
        return None
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    assert evaluation.task_limit is not None  # filled in at admission
    asked = Asked(
        evaluation.task_limit,
        evaluation.task_shots,
        _template(tokenizer) if evaluation.task_chat_template else None,
        evaluation.languages,
    )
    tasks = _open(evaluation, asked, sources, observer, meter)
    if spec.limits is not None and spec.limits.task_loss is not None:
        tasks.check_amounts()
    of_tokenizer = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else _LONGEST
    longest = checkpoint.max_sequence_length or of_tokenizer
    requests = tasks.requests(tokenizer, longest)
    observer.log("info", "tasks read", tasks=", ".join(tasks.names), requests=len(requests.requests))
    return JobTasks(tasks, requests, requests, longest)


def _open(
    evaluation: EvaluationSpec, asked: Asked, sources: Sources, observer: JobObserver, meter: Meter
) -> HarnessTasks:
    if evaluation.task_files is None:
        if sources.open_hub is None:
            raise TasksRefusedError("these tasks are read from the hub, and this service has none; give task_files")
        return HarnessTasks.named(evaluation.tasks, asked)
    folder = TaskFolder(fetch(sources, observer, "tasks", task_file_names, evaluation.task_files, meter))
    found = {task.name: task for name in evaluation.tasks for task in folder.find(name)}
    return HarnessTasks.local(list(found.values()), asked)


def _template(tokenizer: Any) -> Template:
    """Renders a conversation with the model's chat template; without its system message if it accepts none."""
    if not tokenizer.chat_template:
        raise ModelRefusedError("its tokenizer has no chat template; leave task_chat_template out")

    def render(messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> str:
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return render_conversation(tokenizer, messages, **options)
        except TemplateError:
            others = [message for message in messages if message["role"] != "system"]
            return render_conversation(tokenizer, others, **options)

    return render
