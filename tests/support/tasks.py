"""Tasks of our own for lm-evaluation-harness, in a folder, and what the harness itself says of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from secateur_service.tasks import has_harness

needs_harness = pytest.mark.skipif(not has_harness(), reason="needs the extra tasks")

CITIES = {
    "en": ("The train from {} to {} leaves at {} o'clock. It leaves at", ["six", "seven", "nine", "eleven"]),
    "de": ("Der Zug von {} nach {} fährt um {} Uhr. Er fährt um", ["sechs", "sieben", "neun", "elf"]),
    "uk": ("Потяг з міста {} до міста {} їде о {}. Він їде о", ["шостій", "сьомій", "дев'ятій", "одинадцятій"]),
}
PLACES = ("Lviv", "Graz", "Kyiv", "Bern", "Ulm", "Cork", "Odesa", "Leeds")


def rows_of(language: str, count: int) -> list[dict[str, Any]]:
    """Questions with four answers; the question has the right one in it."""
    text, hours = CITIES[language]
    rows = []
    for number in range(count):
        gold = (number * 3 + number // 4) % 4
        start, end = PLACES[number % 8], PLACES[(number * 5 + 1) % 8]
        question = text.format(start, end, hours[gold])
        rows.append({"question": question, "hours": hours, "gold": gold, "answer": hours[gold], "number": number})
    return rows


TASKS: dict[str, dict[str, Any]] = {
    "trains_en": {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "hours",
        "doc_to_target": "gold",
        "tag": "trains",
    },
    "trains_de": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{hours}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 2,
        "fewshot_split": "train",
        "tag": "trains",
    },
    "letters_uk": {  # answers of one token, for a tokenizer of bytes
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nA, B, C\nAnswer:",
        "doc_to_choice": ["A", "B", "C"],
        "doc_to_target": "{{gold % 3}}",
        "target_delimiter": "",
        "description": "Choose.\n\n",
    },
    "last_word_en": {
        "output_type": "loglikelihood",
        "doc_to_text": "question",
        "doc_to_target": " {{answer}}",
        "target_delimiter": "",
    },
    "whole_uk": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{answer}}.",
    },
    "unasked_de": {  # compares with answers to no question at all
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "hours",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}],
    },
    "ranked_plain": {  # without a language, and longer than small models take
        "output_type": "multiple_choice",
        "doc_to_text": "{% for _ in range(4) %}{{question}} {% endfor %}",
        "doc_to_choice": "hours",
        "doc_to_target": "gold",
        "metric_list": [
            {"metric": "mcc", "aggregation": "matthews_corrcoef"},
            {"metric": "acc_norm", "aggregation": "mean"},
        ],
        "metadata": {"version": 1},
    },
}


def save_tasks(folder: Path, names: Sequence[str] = tuple(TASKS), *, items: int = 12) -> Path:
    """The tasks as files, as users of the harness write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in CITIES:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(language, items))
        (folder / f"{language}.jsonl").write_text(lines, encoding="utf-8")
    for name in names:
        file = f"{name[-2:]}.jsonl" if name[-2:] in CITIES else "en.jsonl"
        content = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"train": "en.jsonl", "test": file}},
            "test_split": "test",
            **TASKS[name],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def in_the_harness(model: Path, tasks: Path, names: Sequence[str], **options: Any) -> Any:
    """What lm-evaluation-harness says of a model by its own class; call it in the folder of the tasks."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    itself = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=8)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tasks / ".cache")
        return simple_evaluate(itself, tasks=list(names), task_manager=manager, bootstrap_iters=0, **options)
