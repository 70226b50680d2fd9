"""Tasks in a folder of a user: what is read, and what is refused before the harness sees it."""

import json

import pytest

from secateur_service.tasks.gold import check_items
from secateur_service.tasks.task_files import TaskFolder, TasksRefusedError, task_file_names
from support.tasks import TASKS, save_tasks

TASK = {
    "task": "own_de",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "de.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "question",
    "doc_to_choice": "hours",
    "doc_to_target": "gold",
}


@pytest.fixture
def folder(tmp_path):
    return save_tasks(tmp_path / "tasks", names=())


def write(folder, name="own.yaml", text=None, **changes):
    content = {key: value for key, value in {**TASK, **changes}.items() if value is not None}
    (folder / name).write_text(json.dumps(content) if text is None else text, encoding="utf-8")


def refusal(folder, name="own_de"):
    with pytest.raises(TasksRefusedError) as caught:
        TaskFolder(folder).find(name)
    return str(caught.value)


def test_a_name_is_one_task_a_tag_or_a_group_of_them(folder):
    save_tasks(folder, ["trains_en", "trains_de"])
    (folder / "all.yaml").write_text("group: all\ntask: [trains, trains_en]\n", encoding="utf-8")
    found = TaskFolder(folder)
    assert [task.name for task in found.find("trains_de")] == ["trains_de"]
    assert [task.name for task in found.find("trains")] == ["trains_de", "trains_en"]
    assert [task.name for task in found.find("all")] == ["trains_de", "trains_en"]
    assert found.names == ["all", "trains", "trains_de", "trains_en"]
    assert found.find("trains_de")[0].rows("test")[1]["number"] == 1


def test_what_a_file_includes_stands_behind_what_it_says_itself(folder):
    write(folder, "common.yaml", text='{description: Common., doc_to_text: "{{question}}"}')
    write(folder, include="common.yaml", doc_to_text=None, num_fewshot=1)
    (task,) = TaskFolder(folder).find("own_de")
    assert (task.config["description"], task.config["doc_to_text"]) == ("Common.", "{{question}}")


def test_a_python_function_is_refused_and_not_run(folder, tmp_path):
    (folder / "utils.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef x(doc): return ''\n", encoding="utf-8")
    write(folder, text="task: own_de\noutput_type: multiple_choice\ndoc_to_text: !function utils.x\n")
    assert "own.yaml names a Python function (!function), and no code of users is run" in refusal(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"output_type": "generate_until"}, "its answers are generated"),
        ({"output_type": None}, "its answers are generated"),
        ({"dataset_path": "org/data"}, "dataset_path is 'org/data'; write json"),
        (
            {"dataset_kwargs": {"data_files": {"test": "../secret.jsonl"}}},
            "'../secret.jsonl', which is no file *.jsonl",
        ),
        ({"dataset_kwargs": {"data_files": {"test": "/etc/passwd"}}}, "'/etc/passwd', which is no file *.jsonl"),
        (
            {"dataset_kwargs": {"data_files": {"test": "https://host/a.jsonl"}}},
            "which is no file *.jsonl in the folder",
        ),
        ({"dataset_kwargs": {"data_files": {"test": "de.jsonl"}, "cache_dir": "/x"}}, "write data_files alone"),
        ({"metric_list": [{"metric": "org/metric", "hf_evaluate": True}]}, "metric_list is"),
        ({"metric_list": [{"metric": "acc", "aggregation": "org/metric"}]}, "metric_list is"),
        ({"class": "os.system"}, "'class' cannot be used here"),
        ({"process_docs": "utils.x"}, "'process_docs' cannot be used here"),
        ({"custom_dataset": "utils.x"}, "'custom_dataset' cannot be used here"),
        ({"use_prompt": "promptsource:*"}, "'use_prompt' cannot be used here"),
        ({"unsafe_code": True}, "'unsafe_code' cannot be used here"),
        ({"filter_list": []}, "'filter_list' cannot be used here"),
        ({"fewshot_config": {"sampler": "org.Sampler"}}, "fewshot_config is"),
        ({"num_fewshot": -1}, "num_fewshot is -1"),
        ({"test_split": "validation"}, "test_split is 'validation'; write one of test"),
        ({"test_split": None}, "neither test_split nor validation_split"),
        ({"task": 7}, "task is 7; write a name"),
        ({"include": "../other.yaml"}, "which is no file *.yaml in the folder"),
        ({"include": "own.yaml"}, "own.yaml includes itself"),
    ],
)
def test_what_could_run_code_or_read_something_else_is_refused(folder, tmp_path, changes, problem):
    for name in ("secret.jsonl", "other.yaml"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    write(folder, **changes)
    assert problem in refusal(folder)


def test_a_file_beside_its_items_may_be_a_link_only_inside_its_folder(folder, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"question": "?"}\n', encoding="utf-8")
    (folder / "de.jsonl").unlink()
    (folder / "de.jsonl").symlink_to(tmp_path / "other.jsonl")
    write(folder)
    assert "which is no file *.jsonl in the folder" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "own.yaml, line 1"),
        ("just a text", "own.yaml is no mapping"),
        ("a: &a [*a]", "nested deeper than 32 levels, or within itself"),
        ("x: 1\n" * 40000, "bytes are too many"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_its_name(folder, text, problem):
    write(folder, text=text)
    assert problem in refusal(folder)


@pytest.mark.parametrize(
    ("line", "problem"),
    [("[1]", "line 2, is no JSON object"), ("{", "line 2:"), ('{"a": 1, "a": 2}', "'a' is named twice")],
)
def test_a_line_that_is_no_item_is_refused_with_its_number(folder, line, problem):
    write(folder)
    (folder / "de.jsonl").write_text('{"question": "?"}\n' + line + "\n", encoding="utf-8")
    (task,) = TaskFolder(folder).find("own_de")
    with pytest.raises(TasksRefusedError, match=r"de\.jsonl, ") as caught:
        task.rows("test")
    assert problem in str(caught.value)


def test_a_split_without_items_is_refused(folder):
    write(folder)
    (folder / "de.jsonl").write_text("\n", encoding="utf-8")
    (task,) = TaskFolder(folder).find("own_de")
    with pytest.raises(TasksRefusedError, match="no items in split test"):
        task.rows("test")


@pytest.mark.parametrize(
    ("row", "changes", "problem"),
    [
        ({"gold": None}, {}, "de.jsonl, line 2, has no gold, which is where task own_de has the right answer"),
        (
            {"gold": -1},
            {},
            "line 2: gold is -1, and task own_de has 4 answers there; number them from 0 to 3",
        ),
        ({"gold": 4}, {"doc_to_target": "{{gold}}", "doc_to_choice": "{{hours}}"}, "gold is 4, and task own_de has 4"),
        ({"gold": "acht"}, {}, "gold is 'acht', and task own_de has 4 answers there; write one of them"),
        ({"gold": [0, 9]}, {}, "gold is 9, and"),
        ({"gold": 3}, {"doc_to_choice": ["ja", "nein"]}, "gold is 3, and task own_de has 2 answers"),
        ({}, {"doc_to_target": "golden"}, "doc_to_target is 'golden', and its items have no such field, did you mean"),
        ({}, {"doc_to_target": "{{right}}"}, "line 1, has no right"),
        ({"answer": None}, {"output_type": "loglikelihood", "doc_to_target": " {{answer}}"}, "line 2, has no answer"),
        ({"gold": 3}, {}, None),
        ({"gold": "neun"}, {}, None),
        ({"gold": [0, 3]}, {}, None),
        ({"gold": -1}, {"doc_to_target": "{{gold % 3}}"}, None),
        ({"gold": None}, {"doc_to_target": "ja", "doc_to_choice": ["ja", "nein"]}, None),
        ({"gold": None}, {"doc_to_target": 1}, None),
        ({"answer": "?"}, {"output_type": "loglikelihood", "doc_to_target": " {{answer}}"}, None),
    ],
)
def test_an_item_that_does_not_say_which_answer_is_right_is_refused(folder, row, changes, problem):
    lines = (folder / "de.jsonl").read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **row})
    (folder / "de.jsonl").write_text("\n".join(lines), encoding="utf-8")
    write(folder, **changes)
    (task,) = TaskFolder(folder).find("own_de")
    if problem is None:
        check_items(task, 10, has_content=True)
        return
    with pytest.raises(TasksRefusedError) as caught:
        check_items(task, 10, has_content=True)
    assert problem in str(caught.value)


def test_items_are_looked_for_as_far_as_their_files_are_known(folder):
    write(folder)
    (task,) = TaskFolder(folder).find("own_de")
    (folder / "de.jsonl").write_bytes(bytes(100))  # an outline
    check_items(task, 10, has_content=False)
    (folder / "de.jsonl").write_bytes(b"\n")
    with pytest.raises(TasksRefusedError, match="no items in split test"):
        check_items(task, 10, has_content=True)
    (folder / "de.jsonl").write_bytes(b"")
    for has_content in (False, True):
        with pytest.raises(TasksRefusedError, match=r"task own_de has no items, de\.jsonl is empty"):
            check_items(task, 10, has_content=has_content)


def test_a_name_that_nothing_has_is_refused_with_those_there_are(folder):
    write(folder)
    assert "no task 'own_uk'; it has own_de" in refusal(folder, "own_uk")
    assert "no task 'own-de ', did you mean own_de? it has own_de" in refusal(folder, "own-de ")
    (folder / "ring.yaml").write_text("group: ring\ntask: [ring]\n", encoding="utf-8")
    assert "group ring is within itself" in refusal(folder, "ring")
    write(folder, "again.yaml")
    assert "own_de is the name of two tasks" in refusal(folder)


def test_only_files_of_tasks_and_items_are_fetched():
    names = ["a.yaml", "b/c.jsonl", "utils.py", "model.safetensors", "README.md"]
    assert task_file_names(names) == ["a.yaml", "b/c.jsonl"]
    assert len(TASKS) == 7
