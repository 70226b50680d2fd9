"""Tasks of users: a folder of YAML files as lm-evaluation-harness reads them, with the items in files of JSON lines.

The files are untrusted. The harness would call Python functions that they name, load any data set and any metric by its
name, and read any path. So nothing of them reaches it but keys that are listed here, with values of a known type:
`!function` is refused, the items come from files of the folder, and the metrics are those listed. The templates are
rendered in a sandbox (`harness`).

Does not load the harness: a specification can be refused without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur._suggestions import close_to, did_you_mean
from secateur._yaml import UnreadableYamlError, YamlLimits, parse_yaml
from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json
from secateur_service.links import stays_in

TASK_FILE_BYTES = 64 << 10
"""The largest YAML file of a task that is read."""

GENERATES = (
    "its answers are generated, which takes every weight once for every token; only tasks that are scored by "
    "log-likelihoods (multiple_choice, loglikelihood, loglikelihood_rolling) run in the pass"
)
"""Why a task is refused that lets the model write."""

_OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")
_METRICS = (
    *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1", "mcc", "brier_score"),
    *("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"),
)
_AGGREGATIONS = (
    *("mean", "nanmean", "median", "f1", "matthews_corrcoef", "brier_score"),
    *("perplexity", "weighted_perplexity", "bits_per_byte"),
)
_SAMPLERS = ("default", "first_n")
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
# Of all YAML files together; they are parsed in some 15 seconds a megabyte.
_MOST_FILES, _MOST_BYTES = 256, 512 << 10
_DATA_BYTES = 64 << 20
_ROW_LIMITS = JsonLimits(size_bytes=1 << 20, values=20_000, depth=16)
_MOST_SHOTS = 100
_SHOWN_CHARACTERS = 80


class TasksRefusedError(ValueError):
    """Tasks that cannot be used; the message says which, why, and what to do."""


def task_file_names(names: Collection[str]) -> list[str]:
    """The files that define tasks, and those that hold items, out of the files of a folder."""
    return [name for name in names if name.endswith((".yaml", ".jsonl"))]


@dataclass(frozen=True)
class LocalTask:
    """A task of a folder.

    Attributes:
        config: what the harness is told, without its items.
        files: the files of items of each split, in order.
    """

    name: str
    config: Mapping[str, Any]
    files: Mapping[str, Sequence[Path]]

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The items of a split.

        Raises:
            TasksRefusedError: a file cannot be read, or has something else than an object in a line.
        """
        rows = [row for _, row in self.items(split)]
        if not rows:
            raise TasksRefusedError(self.without_items(split))
        return rows

    def items(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The items of a split one by one, each with its file and line.

        Raises:
            TasksRefusedError: as `rows` does.
        """
        for path in self.files[split]:
            for number, line in enumerate(_lines(path), 1):
                place = f"{path.name}, line {number}"
                try:
                    row = parse_json(line, _ROW_LIMITS)
                except UnreadableJsonError as error:
                    raise TasksRefusedError(f"{place}: {error}") from error
                if not isinstance(row, dict):
                    raise TasksRefusedError(f"{place}, is no JSON object; put one item a line")
                yield place, row

    @property
    def evaluated(self) -> str:
        """The split whose items are asked; the harness prefers the test split."""
        return str(self.config.get("test_split") or self.config["validation_split"])

    def without_items(self, split: str) -> str:
        """What to say of a split that is empty."""
        return f"task {self.name} has no items in split {split}; put one a line into its file"


class TaskFolder:
    """The tasks, groups and tags of a folder and of its subfolders.

    Raises:
        TasksRefusedError: a file cannot be read, or says what is not allowed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, dict[str, Any]] = {}
        self._tasks: dict[str, LocalTask] = {}
        self._lists: dict[str, list[str]] = {}
        self._unfit: dict[str, str] = {}
        for path in self._paths():
            self._add(path, self._with_included(path, ()))

    @property
    def names(self) -> list[str]:
        """The names of all tasks, groups and tags."""
        return sorted({*self._tasks, *self._lists, *self._unfit})

    def find(self, name: str, within: Sequence[str] = ()) -> list[LocalTask]:
        """The tasks that a name stands for: one, or all of a group or a tag.

        Raises:
            TasksRefusedError: there is none, or one of them lets the model write.
        """
        if name in within:
            raise TasksRefusedError(f"group {name} is within itself; take it out of its list")
        if name in self._unfit:
            raise TasksRefusedError(self._unfit[name])
        if name in self._lists:
            found = [task for entry in self._lists[name] for task in self.find(entry, (*within, name))]
            return list({task.name: task for task in found}.values())
        if name not in self._tasks:
            known, near = ", ".join(self.names[:20]) or "none", close_to(name[:_SHOWN_CHARACTERS], self.names)
            hint = f", {did_you_mean([near])}" if near else ";"
            raise TasksRefusedError(f"the folder has no task {name[:_SHOWN_CHARACTERS]!r}{hint} it has {known}")
        return [self._tasks[name]]

    def _paths(self) -> list[Path]:
        try:
            inner = (sorted(path.iterdir()) if path.is_dir() else [path] for path in sorted(self._folder.iterdir()))
            found = [path for paths in inner for path in paths if path.name.endswith(".yaml") and path.is_file()]
        except OSError as error:
            raise TasksRefusedError(f"{error.filename} cannot be read: {error.strerror}") from error
        if not found:
            raise TasksRefusedError("there is no file NAME.yaml in it; name the folder with the tasks")
        if len(found) > _MOST_FILES:
            raise TasksRefusedError(f"it has {len(found)} files of tasks; at most {_MOST_FILES} are read")
        if sum(path.stat().st_size for path in found) > _MOST_BYTES:
            raise TasksRefusedError(f"its files of tasks have more than {_MOST_BYTES} bytes; put fewer into the folder")
        return found

    def _with_included(self, path: Path, within: Sequence[Path]) -> dict[str, Any]:
        """The content of a file, with what it includes."""
        if path in within:
            raise TasksRefusedError(f"{path.name} includes itself; take the include out")
        if path not in self._read:
            self._read[path] = self._parse(path)
        content = dict(self._read[path])
        merged: dict[str, Any] = {}
        included = content.pop("include", ())
        for name in included if isinstance(included, list | tuple) else [included]:
            other = self._inside(path, name, ".yaml")
            merged |= self._with_included(other, (*within, path))
        return merged | content

    def _parse(self, path: Path) -> dict[str, Any]:
        if not stays_in(path, self._folder):
            raise TasksRefusedError(f"{path.name} is a link that leaves its folder; put the file itself there")
        try:
            with path.open("rb") as file:
                content = parse_yaml(file.read(TASK_FILE_BYTES + 1), YamlLimits(TASK_FILE_BYTES))
        except UnreadableYamlError as error:
            if "!function" in str(error):
                problem = f"{path.name} names a Python function (!function), and no code of users is run"
                raise TasksRefusedError(f"{problem}; write a template, or prepare the items beforehand") from error
            raise TasksRefusedError(f"{path.name}{error.place}: {error}") from error
        except OSError as error:
            raise TasksRefusedError(f"{path.name} cannot be read: {error.strerror}") from error
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise TasksRefusedError(f"{path.name} is no mapping; write the keys of a task, such as `task: NAME`")
        return content

    def _inside(self, path: Path, name: Any, ending: str) -> Path:
        """A file that another one names, relative to itself."""
        found = path.parent / name if isinstance(name, str) else path.parent
        is_named = isinstance(name, str) and name.endswith(ending) and not Path(name).is_absolute()
        if not is_named or not stays_in(found, self._folder) or not found.is_file():
            shown = repr(name)[:_SHOWN_CHARACTERS]
            raise TasksRefusedError(
                f"{path.name} names {shown}, which is no file *{ending} in the folder; give its path relative to "
                f"{path.name}, inside the folder"
            )
        return found

    def _add(self, path: Path, content: dict[str, Any]) -> None:
        if "group" in content:
            name, members = content["group"], content.get("task") or []
            _check(path, "group", name, _is_name, "a name")
            _check(path, "task", members, _is_names, "a list of names of tasks in this folder")
            self._claim(path, name)
            self._lists[name] = list(members)
        elif "task" in content:
            name = content["task"]
            _check(path, "task", name, _is_name, "a name")
            self._claim(path, name)
            if content.get("output_type", "generate_until") == "generate_until":
                self._unfit[name] = f"task {name}: {GENERATES}"
                return
            self._tasks[name] = LocalTask(name, _config(path, content), self._files(path, content))
            tags = content.get("tag") or ()
            for tag in [tags] if isinstance(tags, str) else tags:
                self._lists.setdefault(str(tag), []).append(name)

    def _claim(self, path: Path, name: str) -> None:
        if name in self._tasks or name in self._lists or name in self._unfit:
            raise TasksRefusedError(f"{path.name}: {name} is the name of two tasks, groups or tags; rename one")

    def _files(self, path: Path, content: Mapping[str, Any]) -> dict[str, list[Path]]:
        """The files of items of every split that the task uses."""
        _check(path, "dataset_path", content.get("dataset_path"), lambda kind: kind == "json", "json")
        options = content.get("dataset_kwargs")
        expected = "data_files alone, e.g. {data_files: {test: de.jsonl}}"
        _check(path, "dataset_kwargs", options, lambda _: isinstance(options, dict), expected)
        named = dict(options or {}).pop("data_files", None)
        _check(path, "dataset_kwargs", options, lambda _: len(options or {}) == 1 and named is not None, expected)
        by_split: dict[Any, Any] = named if isinstance(named, dict) else {"train": named}
        files: dict[str, list[Path]] = {}
        for key in _SPLITS:
            split = content.get(key)
            if split is None:
                continue
            _check(path, key, split, lambda name: name in by_split, f"one of {', '.join(map(str, by_split))}")
            names = by_split[split] if isinstance(by_split[split], list) else [by_split[split]]
            files[split] = [self._inside(path, name, ".jsonl") for name in names]
        if content.get("test_split") is None and content.get("validation_split") is None:
            raise TasksRefusedError(f"{path.name} has neither test_split nor validation_split; say what to evaluate on")
        return files


def _lines(path: Path) -> Iterator[bytes]:
    try:
        size = path.stat().st_size
        if size > _DATA_BYTES:
            raise TasksRefusedError(f"{path.name} has {size} bytes; at most {_DATA_BYTES} are read, take fewer items")
        with path.open("rb") as file:
            yield from (line for line in file if line.strip())
    except OSError as error:
        raise TasksRefusedError(f"{path.name} cannot be read: {error.strerror}") from error


def _check(path: Path, key: str, value: Any, fits: Callable[[Any], bool], expected: str) -> None:
    if not fits(value):
        raise TasksRefusedError(f"{path.name}: {key} is {repr(value)[:_SHOWN_CHARACTERS]}; write {expected}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_name, value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_metric(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() <= {"metric", "aggregation", "higher_is_better"}
        and entry.get("metric") in _METRICS
        and entry.get("aggregation", "mean") in _AGGREGATIONS
        and isinstance(entry.get("higher_is_better", True), bool)
    )


def _is_examples(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"sampler", "samples"}
        and value.get("sampler", "default") in _SAMPLERS
        and isinstance(value.get("samples", []), list)
        and all(isinstance(sample, dict) for sample in value.get("samples", []))
    )


_METRIC_ENTRIES = (
    f"entries with a metric ({', '.join(_METRICS)}), an aggregation ({', '.join(_AGGREGATIONS)}) and higher_is_better"
)
_KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "task_alias": (_is_text, "a text"),
    "tag": (lambda value: _is_name(value) or _is_names(value), "a name, or a list of names"),
    "output_type": (lambda value: value in _OUTPUT_TYPES, f"one of {', '.join(_OUTPUT_TYPES)}"),
    "doc_to_text": (lambda value: isinstance(value, str | int), "a field or a template"),
    "doc_to_target": (lambda value: isinstance(value, str | int) or _is_texts(value), "a field or a template"),
    "doc_to_choice": (lambda value: _is_text(value) or _is_texts(value), "a field, a template or a list of texts"),
    "description": (_is_text, "a text"),
    "gen_prefix": (_is_text, "a text"),
    "target_delimiter": (_is_text, "a text"),
    "fewshot_delimiter": (_is_text, "a text"),
    "num_fewshot": (lambda value: type(value) is int and 0 <= value <= _MOST_SHOTS, f"a number up to {_MOST_SHOTS}"),
    "fewshot_config": (_is_examples, f"a sampler ({' or '.join(_SAMPLERS)}) and samples alone"),
    "metric_list": (
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_metric, value)),
        _METRIC_ENTRIES,
    ),
    "metadata": (lambda value: isinstance(value, dict), "a mapping"),
}
# Keys that say nothing to an evaluation by log-likelihoods, and those that are read elsewhere.
_IDLE = ("should_decontaminate", "doc_to_decontamination_query", "repeats", "dataset_name")
_READ = ("task", "dataset_path", "dataset_kwargs", *_SPLITS)


def _config(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the harness is told of a task."""
    config = {key: content[key] for key in ("task", *_SPLITS) if content.get(key) is not None}
    for key, value in content.items():
        if key in _KEYS and value is not None:
            _check(path, key, value, *_KEYS[key])
            config[key] = value
        elif key not in (*_KEYS, *_IDLE, *_READ):
            known = ", ".join(("task", "include", *_READ[1:], *_KEYS))
            raise TasksRefusedError(f"{path.name}: {key[:_SHOWN_CHARACTERS]!r} cannot be used here; known are {known}")
    return config
