"""Languages of tasks, and answers that were asked for in parts."""

import pytest

from secateur_service.tasks.requests import Answer, Request, RequestSet, language_of


@pytest.mark.parametrize(
    ("name", "stated", "language"),
    [
        ("xnli_de", None, "de"),
        ("belebele_deu_Latn", None, "de"),
        ("belebele_zho_Hant", None, "zh-Hant"),
        ("mmlu_law", None, None),
        ("mmlu_kin", None, "rw"),
        ("hellaswag", None, None),
        ("hellaswag", "uk", "uk"),
        ("xnli_de", "no language", None),
    ],
)
def test_the_language_is_what_a_task_states_else_the_end_of_its_name(name, stated, language):
    assert language_of(name, stated, ["rw", "de"]) == language


def test_parts_of_a_text_are_added_up():
    requests = RequestSet([Request((1, 2), 1)] * 4, [1, 3])
    answers = [Answer(-1.0, True), Answer(-2.0, True), Answer(-3.0, False), Answer(-4.0, True)]
    assert requests.joined(answers) == [Answer(-1.0, True), Answer(-9.0, False)]
