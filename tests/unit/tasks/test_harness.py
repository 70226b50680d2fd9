"""Tasks of users in lm-evaluation-harness: their templates, and faults that show before anything is computed."""

import json
import re
import subprocess
import sys

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from secateur_service.commands.demo.tokenizer import byte_tokenizer
from secateur_service.errors import TransientError
from secateur_service.tasks.requests import Answer
from secateur_service.tasks.task_files import TaskFolder, TasksRefusedError
from support.tasks import needs_harness, save_tasks

pytestmark = needs_harness


def built(folder, *names, limit=4, shots=None):
    from secateur_service.tasks.harness import Asked, HarnessTasks

    files = TaskFolder(folder)
    tasks = [task for name in names for task in files.find(name)]
    return HarnessTasks.local(tasks, Asked(limit, shots, None, ["de"]))


def changed(folder, name, **changes):
    path = save_tasks(folder, [name]) / f"{name}.yaml"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}), encoding="utf-8")
    return folder


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token="<s>", eos_token="</s>")


def test_answers_to_a_question_are_asked_for_after_the_beginning_of_text(tmp_path):
    asked = built(save_tasks(tmp_path, ["letters_uk"]), "letters_uk", limit=2).requests(tokenizer(), 1024)
    assert len(asked.requests) == 6
    text = tokenizer().decode(asked.requests[1].tokens)
    assert text.startswith("<s>Choose.\n\nПотяг")
    assert text.endswith("Answer:B")
    assert asked.requests[1].scored == 1


def test_items_that_differ_in_anything_have_another_digest(tmp_path):
    def digest(**changes):
        tasks = built(changed(tmp_path, "trains_en", **changes), "trains_en")
        (scores, *_) = tasks.scores([Answer(-1.0, True)] * 16)
        return scores.items

    first = digest()
    assert first == digest()
    assert digest(doc_to_text="{{question}} about") != first
    tasks = built(save_tasks(tmp_path, ["trains_en"]), "trains_en", limit=3)
    assert tasks.scores([Answer(-1.0, True)] * 12)[0].items != first
    rows = (tmp_path / "en.jsonl").read_text(encoding="utf-8")
    (tmp_path / "en.jsonl").write_text(rows.replace('"gold": 0', '"gold": 1'), encoding="utf-8")
    (scores, *_) = built(tmp_path, "trains_en").scores([Answer(-1.0, True)] * 16)
    assert scores.items != first  # though the questions are the same


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"doc_to_target": "{{gold + 4 * (number == 1)}}"}, "item 2: 7 is none of its 4 answers"),
        ({"doc_to_choice": ["one"]}, "item 1 needs at least two answers"),
        ({"doc_to_choice": ["one", " "], "doc_to_target": 0}, "item 1 needs at least two answers"),
        ({"doc_to_choice": ["one", "two", "one", "six"]}, "item 1 has the same answer twice"),
        ({"metadata": {"language": "klingonisch"}}, "metadata.language: 'klingonisch' is no language"),
    ],
)
def test_questions_that_nobody_can_answer_are_refused(changes, told, tmp_path):
    with pytest.raises(TasksRefusedError, match=f"trains_en: {re.escape(told)}"):
        built(changed(tmp_path, "trains_en", **changes), "trains_en")


def test_examples_come_before_a_question_and_a_task_that_says_0_keeps_0(tmp_path):
    few = built(save_tasks(tmp_path, ["trains_de"]), "trains_de").requests(tokenizer(), 1024).requests[0]
    more = built(tmp_path, "trains_de", shots=3).requests(tokenizer(), 1024).requests[0]
    assert len(few.tokens) < len(more.tokens)
    none = built(changed(tmp_path, "trains_de", num_fewshot=0), "trains_de", shots=3)
    assert len(none.requests(tokenizer(), 1024).requests[0].tokens) < len(few.tokens)


@pytest.mark.parametrize(
    ("status", "expected"), [(503, TransientError), (429, TransientError), (404, TasksRefusedError)]
)
def test_a_hub_that_cannot_be_reached_is_no_fault_of_the_tasks(status, expected):
    from secateur_service.tasks.harness import _refusals

    def read():
        """As the harness' libraries do: what the hub answered is the cause of another error."""
        response = httpx2.Response(status, request=httpx2.Request("GET", "http://hub/"))
        try:
            raise HfHubHTTPError("answered", response=response)
        except HfHubHTTPError as error:
            raise FileNotFoundError("not found") from error

    with pytest.raises(expected, match="xnli_de"), _refusals("xnli_de"):
        read()
    with pytest.raises(TransientError, match="items of task xnli_de cannot be read"), _refusals("xnli_de"):
        raise ConnectionError("refused")


def test_long_questions_are_cut_on_the_left_and_long_answers_refused(tmp_path):
    tasks = built(save_tasks(tmp_path, ["trains_en"]), "trains_en")
    assert {len(request.tokens) for request in tasks.requests(tokenizer(), 30).requests} == {31}
    with pytest.raises(TasksRefusedError, match="trains_en: an answer has 7 tokens, and the model takes 6"):
        tasks.requests(tokenizer(), 6)


def test_scores_are_those_of_the_answers_given_last(tmp_path):
    tasks = built(save_tasks(tmp_path, ["letters_uk"]), "letters_uk", limit=2)
    golds = (0, 3 % 3)
    for right in (True, False, True):
        answers = [Answer(-1.0 if (choice == gold) == right else -2.0, False) for gold in golds for choice in range(3)]
        accuracy = next(scores for scores in tasks.scores(answers) if scores.metric == "acc")
        assert accuracy.values == ([1.0, 1.0] if right else [0.0, 0.0])


def test_it_is_known_in_advance_which_tasks_a_limit_on_losses_can_apply_to(tmp_path):
    folder = save_tasks(tmp_path)
    measurable = built(folder, "trains_de", "last_word_en", "ranked_plain", "unasked_de")
    measurable.check_amounts()
    answers = [Answer(-1.0, is_greedy=True)] * len(measurable.requests(tokenizer(), 1024).parts)
    better = {(scores.task, scores.metric): scores.higher_is_better for scores in measurable.scores(answers)}
    assert better["trains_de", "acc"] is better["ranked_plain", "mcc"] is True
    assert better["last_word_en", "perplexity"] is False
    with pytest.raises(TasksRefusedError, match=r"limits\.task_loss: whole_uk has no metric that an amount limits"):
        built(folder, "trains_de", "whole_uk").check_amounts()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('touch PLACE').read() }}",
        "{{ question.__init__ }}",
        "{% for _ in range(10000000) %}x{% endfor %}",
        "{{ unknown }}",
    ],
)
def test_a_template_sees_nothing_but_the_item(tmp_path, template):
    place = tmp_path / "touched"
    folder = changed(tmp_path / "tasks", "trains_en", doc_to_text=template.replace("PLACE", str(place)))
    with pytest.raises(TasksRefusedError, match="task trains_en cannot be used"):
        built(folder, "trains_en")
    assert not place.exists()


def test_the_harness_gets_its_own_templates_back(tmp_path):
    from lm_eval import utils

    own = utils.env
    built(save_tasks(tmp_path, ["trains_en"]), "trains_en")
    assert utils.env is own


def test_a_metric_that_does_not_fit_the_task_shows_before_anything_is_asked(tmp_path):
    folder = changed(tmp_path, "trains_en", metric_list=[{"metric": "f1", "aggregation": "f1"}])
    with pytest.raises(TasksRefusedError, match=r"trains_en cannot be used .*multiclass"):
        built(folder, "trains_en", limit=12)


def test_a_task_of_the_harness_that_generates_is_refused_before_its_items_are_read():
    from secateur_service.tasks.harness import Asked, HarnessTasks

    with pytest.raises(TasksRefusedError, match="task gsm8k: its answers are generated"):
        HarnessTasks.named(["gsm8k"], Asked(4, None, None, []))


def test_the_harness_is_not_loaded_before_there_are_tasks():
    loads = "import sys, secateur_service.tasks.harness; print('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loads], capture_output=True, check=True).stdout.strip() == b"False"
