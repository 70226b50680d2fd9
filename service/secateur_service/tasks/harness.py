"""Tasks as lm-evaluation-harness (Gao et al., github.com/EleutherAI/lm-evaluation-harness) builds and judges them.

The harness makes the questions and the metrics; the model is not its business here: requests are handed out, and
answers handed in. Texts become tokens by the harness' own rules, those of its class for transformers' models, so that
log-likelihoods are the same: a text begins as the tokenizer begins texts, unless it begins so already.

This is the only module that loads the harness. What may be done with the files of users is in `task_files`; here their
templates are rendered in Jinja's sandbox, which keeps them from everything but text, though not from taking long.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from secateur._foreign import detail_of
from secateur_service.errors import TransientError
from secateur_service.tasks.requests import Answer, Request, RequestSet, Scores, language_of
from secateur_service.tasks.task_files import GENERATES, LocalTask, TasksRefusedError

# What the harness seeds its generators with.
_SEED, _OTHER_SEED = 0, 1234
# Errors of a task itself, not of the way to its items.
_TELLING = (TemplateError, LookupError, ValueError, TypeError, AssertionError, SyntaxError, ArithmeticError)
_SHOWN_CHARACTERS = 200
_THROTTLED = 429

Template = Callable[..., str]
"""Renders the messages of a conversation; `add_generation_prompt` says whether the model is to answer."""


@dataclass(frozen=True)
class Asked:
    """How tasks are put to the model.

    Attributes:
        limit: the most items of each task, the first ones.
        shots: examples before each question; None for what the task says.
        template: the model's chat template; None for plain text.
        languages: the evaluated languages.
    """

    limit: int
    shots: int | None
    template: Template | None
    languages: Sequence[str]


class HarnessTasks:
    """Tasks with their items.

    Args:
        tasks: the harness' objects, by name.
        asked: how they are put to the model.
        renders: the context in which templates of the tasks are rendered.

    Raises:
        TasksRefusedError: a task cannot be put to the model, or its metrics cannot be computed.
    """

    def __init__(
        self,
        tasks: Mapping[str, Any],
        asked: Asked,
        renders: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._tasks = dict(tasks)
        self._asked = asked
        self._renders = renders
        with renders():
            for name, task in self._tasks.items():
                with _refusals(name):
                    self._build(name, task)
        # If a metric cannot be computed, it shows now, and not after hours.
        tried = [Answer(-1.0 - number % 7, number % 2 == 0) for number in range(len(self._instances))]
        self._has_amount: dict[str, bool] = {}
        for scores in self.scores(tried):
            with _refusals(scores.task):
                scores.aggregate(scores.values)
            self._has_amount[scores.task] = scores.has_amount or self._has_amount.get(scores.task, False)

    @classmethod
    def named(cls, names: Sequence[str], asked: Asked) -> HarnessTasks:
        """Tasks that the harness comes with, and groups of them; their items are read from the hub.

        Raises:
            TasksRefusedError: the harness has no such task, or it cannot be used, or its items cannot be read.
            TransientError: the hub cannot be reached.
        """
        from lm_eval.tasks import TaskManager

        _quieten()
        with _refusals(", ".join(names)):
            manager = TaskManager()
        for name in names:  # the harness would take others for paths
            if name not in manager.task_index:
                raise TasksRefusedError(f"lm-evaluation-harness has no task {name!r}; `lm-eval ls tasks` lists them")
            for task, config in _configs(manager, name):
                if config.get("output_type", "generate_until") == "generate_until" and "class" not in config:
                    raise TasksRefusedError(f"task {task}: {GENERATES}")
        with _as_in_the_harness(), _refusals(", ".join(names)):
            return cls(manager.load(list(names))["tasks"], asked)

    @classmethod
    def local(cls, tasks: Sequence[LocalTask], asked: Asked) -> HarnessTasks:
        """Tasks of users; nothing is read but their files.

        Raises:
            TasksRefusedError: a task cannot be used, or its items cannot be read.
        """
        from lm_eval.api.task import ConfigurableTask

        _quieten()
        built = {}
        with _as_in_the_harness(), _sandbox():
            for task in tasks:
                with _refusals(task.name):
                    built[task.name] = ConfigurableTask(config={**task.config, "custom_dataset": _items(task)})
                    _check(built[task.name], asked.limit)
            return cls(built, asked, _sandbox)

    @property
    def names(self) -> list[str]:
        """The names of the tasks."""
        return list(self._tasks)

    def check_amounts(self) -> None:
        """Check that every task has a metric that a limit on its loss can apply to.

        Raises:
            TasksRefusedError: one has only metrics without a scale, such as perplexities.
        """
        without = [name for name, has in self._has_amount.items() if not has]
        if without:
            problem = f"limits.task_loss: {', '.join(without)} has no metric that an amount limits"
            raise TasksRefusedError(f"{problem}; limit the growth of its language instead, or leave the task out")

    def requests(self, tokenizer: Any, longest: int) -> RequestSet:
        """What a model is asked, in its own tokens.

        Args:
            tokenizer: of transformers.
            longest: tokens that the model takes; contexts are cut to it on the left.

        Raises:
            TasksRefusedError: a text has no tokens, or more than the model takes.
        """
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        encoder = _encoder_of(tokenizer)
        found: list[Request] = []
        parts: list[int] = []
        for instance in self._instances:
            with _refusals(instance.task_name):
                if instance.request_type == "loglikelihood_rolling":
                    windows = get_rolling_token_windows(
                        encoder.tok_encode(instance.args[0]), encoder.prefix_token_id, longest, 1
                    )
                    pairs = [make_disjoint_window(window) for window in windows]
                else:
                    pairs = encoder.pairs_of(instance)
                parts.append(len(pairs))
                found += [_request(context, continuation, longest) for context, continuation in pairs]
        return RequestSet(found, parts)

    def scores(self, answers: Sequence[Answer]) -> list[Scores]:
        """Every metric of every task, item by item.

        Args:
            answers: as `RequestSet.joined` returns them.

        Raises:
            TasksRefusedError: a metric cannot be computed.
        """
        found = []
        remaining = iter(answers)
        for name, task in self._tasks.items():
            for instance in task.instances:
                answer = next(remaining)
                rolling = instance.request_type == "loglikelihood_rolling"
                given = answer.log_likelihood if rolling else (answer.log_likelihood, answer.is_greedy)
                instance.resps, instance.filtered_resps = [given] * (instance.repeats or 1), {}
            with self._renders(), _refusals(name):
                found += self._scores_of(name, task)
        return found

    def _build(self, name: str, task: Any) -> None:
        if task.OUTPUT_TYPE == "generate_until":
            raise TasksRefusedError(f"task {name}: {GENERATES}")
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise TasksRefusedError(f"task {name} runs code or shows images, which is not possible here; leave it out")
        own = task.get_config("num_fewshot")
        if own is None or (self._asked.shots is not None and own != 0):  # one that says 0 means it
            task.set_config("num_fewshot", self._asked.shots or 0)
        task.set_fewshot_seed(_OTHER_SEED)
        template = self._asked.template
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            task.build_all_requests(
                limit=self._asked.limit,
                apply_chat_template=template is not None,
                fewshot_as_multiturn=template is not None,
                chat_template=template,
            )

    @property
    def _instances(self) -> list[Any]:
        return [instance for task in self._tasks.values() for instance in task.instances]

    def _scores_of(self, name: str, task: Any) -> list[Scores]:
        from lm_eval.api.metrics import mean

        task.apply_filters()
        by_item: dict[int, list[Any]] = {}
        for instance in task.instances:
            by_item.setdefault(instance.doc_id, []).append(instance)
        values: dict[str, list[Any]] = {}
        for kind in task.instances[0].filtered_resps:
            for instances in by_item.values():
                instances.sort(key=lambda instance: instance.idx)
                responses = [instance.filtered_resps[kind] for instance in instances]
                for metric, value in task.process_results(instances[0].doc, responses).items():
                    values.setdefault(metric if kind == "none" else f"{metric},{kind}", []).append(value)
        language = language_of(name, (task.get_config("metadata") or {}).get("language"), self._asked.languages)
        items = _digest(task.instances)
        found = []
        for metric, each in values.items():
            plain = metric.partition(",")[0]
            aggregate, higher = task.aggregation().get(plain, mean), (task.higher_is_better() or {}).get(plain)
            higher = higher if isinstance(higher, bool) else None
            found.append(Scores(name, language, metric, each, aggregate, aggregate is mean, items, higher))
        return found


def _request(context: Sequence[int], continuation: Sequence[int], longest: int) -> Request:
    if not context or not continuation:
        raise TasksRefusedError("an answer, or the question before it, has no tokens; every item needs text")
    if len(continuation) > longest:
        raise TasksRefusedError(f"an answer has {len(continuation)} tokens, and the model takes {longest}; shorten it")
    return Request((*context, *continuation)[-(longest + 1) :], len(continuation))


def _check(task: Any, limit: int) -> None:
    """Check what a user's task says of itself, and that each of its questions can be answered.

    Raises:
        TasksRefusedError: it cannot.
    """
    stated = (task.get_config("metadata") or {}).get("language")
    if stated is not None and language_of("", stated, ()) is None:
        raise TasksRefusedError(f"metadata.language: {stated!r} is no language; give a tag like de, or leave it out")
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return
    for number, doc in enumerate(itertools.islice(task.eval_docs, limit), 1):
        choices, right = task.doc_to_choice(doc), task.doc_to_target(doc)
        if len(choices) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in choices):
            raise TasksRefusedError(f"item {number} needs at least two answers, each a text that is not empty")
        if len(set(choices)) < len(choices):
            raise TasksRefusedError(f"item {number} has the same answer twice, so that nobody can tell them apart")
        for answer in right if isinstance(right, list) else [right]:
            is_there = 0 <= answer < len(choices) if isinstance(answer, int) else answer in choices
            if not is_there:
                raise TasksRefusedError(f"item {number}: {answer!r} is none of its {len(choices)} answers")


def _digest(instances: Sequence[Any]) -> str:
    """SHA-256 of the items of a task, as they are read, and of the texts that are made of them."""
    digest = hashlib.sha256()
    for instance in instances:
        content = [instance.doc, instance.request_type, instance.args]
        digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _items(task: LocalTask) -> Callable[..., Any]:
    """What the harness calls to get the items of a task, by split."""
    from datasets import Dataset

    def load(**_: Any) -> dict[str, Any]:
        return {split: Dataset.from_list(task.rows(split)) for split in task.files}

    return load


def _encoder_of(tokenizer: Any) -> Any:
    """What makes tokens of texts, with the rules of the harness for transformers' models (its class HFLM)."""
    from lm_eval.api.model import TemplateLM

    class Encoder(TemplateLM):  # type: ignore[misc]
        """Hands out the tokens instead of asking a model; it is asked for nothing else."""

        eot_token_id = tokenizer.eos_token_id
        prefix_token_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: FBT001
            if add_special_tokens is None:
                add_special_tokens = not string.startswith(tokenizer.decode(self.prefix_token_id))
            return list(tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False))

        def pairs_of(self, instance: Any) -> list[tuple[list[int], list[int]]]:
            pairs: list[tuple[list[int], list[int]]] = self.loglikelihood([instance], disable_tqdm=True)
            return pairs

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
            return [(context, continuation) for _, context, continuation in requests]

        def loglikelihood_rolling(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        def generate_until(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    encoder = Encoder()
    if encoder.prefix_token_id is None:
        raise TasksRefusedError("the tokenizer has neither a beginning nor an end of text, which tasks begin with")
    return encoder


def _configs(manager: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and configurations of the tasks that a name stands for, as far as they are known before they are loaded."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    config = entry.cfg or {}
    members = config.get("task")
    if isinstance(members, list):
        for member in members:
            inner = member if isinstance(member, str) else member.get("task") or member.get("group")
            yield from _configs(manager, inner) if isinstance(inner, str) and inner != name else ()
    elif entry.tags and not config:
        for tagged in sorted(entry.tags):
            yield from _configs(manager, tagged)
    else:
        yield name, config


def _quieten() -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn whatever the harness raises into a refusal: tasks are foreign, and it does not check them."""
    try:
        yield
    except TasksRefusedError as error:
        prefix = "" if name in str(error) else f"task {name}: "
        raise TasksRefusedError(f"{prefix}{error}") from error
    except Exception as error:
        if _is_outage(error):
            message = f"the items of task {name} cannot be read: the hub cannot be reached ({detail_of(error)})"
            raise TransientError(message, reason="HUB_UNREACHABLE") from error
        if isinstance(error, _TELLING):
            detail, remedy = f"{type(error).__name__}: {str(error)[:_SHOWN_CHARACTERS]}", "correct it"
        else:
            detail, remedy = detail_of(error), "retry the job where its items can be read"
        raise TasksRefusedError(f"task {name} cannot be used ({detail}); {remedy}, or leave it out") from error


def _is_outage(error: BaseException | None) -> bool:
    """Whether what failed in the end is a request to the hub that may succeed later."""
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None and not HF_HUB_OFFLINE:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status == _THROTTLED or status >= 500 or isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _as_in_the_harness() -> Iterator[None]:
    """The generators of random numbers as the harness seeds them: some tasks shuffle their answers."""
    state, numpys = random.getstate(), np.random.get_state()
    random.seed(_SEED)
    np.random.seed(_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpys)


@contextlib.contextmanager
def _sandbox() -> Iterator[None]:
    """Let the harness render templates in a sandbox; its own environment gives them all of Python."""
    from lm_eval import utils

    own = utils.env
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters["regex_replace"] = utils.regex_replace
    sandbox.globals.pop("lipsum", None)
    utils.env = sandbox
    try:
        yield
    finally:
        utils.env = own
