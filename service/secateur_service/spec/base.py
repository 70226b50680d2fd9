"""What all parts of a specification share: common rules, and field types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from secateur._language_names import in_words, meant_languages
from secateur._terminal import first_unsafe
from secateur_service.calibration.languages import parse_language, spelling_of

CORPUS = (
    "a preset such as mc4, or a folder with one text file per language: hf://datasets/org/name, s3://bucket/prefix or "
    "file:///absolute/path"
)
CHAT_TEMPLATE = "true or false: whether documents are put into the model's chat template"
TASK_FILES = (
    "a folder with a file NAME.yaml for each task and its items in files of JSON lines: hf://datasets/org/name, "
    "s3://bucket/prefix or file:///absolute/path"
)
TEXT_FIELD = "the name that the text has in JSON objects and parquet tables, text by default"


def _known_language(tag: str) -> str:
    """The language in canonical form, which keeps the original spelling."""
    try:
        return parse_language(tag)
    except ValueError as error:
        meant = {"meant": list(map(in_words, meant_languages(tag)))}
        raise PydanticCustomError("value", "is not a language that BCP 47 knows", meant) from error


def named_twice(languages: Iterable[str]) -> list[str]:
    """A message for each language that is listed twice, under the same name or under two."""
    first: dict[str, str] = {}
    twice = []
    for language in languages:
        known, spelling = first.get(language), spelling_of(language)
        first.setdefault(language, spelling)
        if known is not None:
            same = known == spelling
            twice.append(f"{known} is listed twice" if same else f"{known} and {spelling} are one language, {language}")
    return twice


def _each_once(languages: tuple[str, ...]) -> tuple[str, ...]:
    twice = named_twice(languages)
    if twice:
        raise PydanticCustomError("value", "names a language twice: {twice}", {"twice": "; ".join(twice)})
    return languages


def _all_differ(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PydanticCustomError("value", "names a task twice: {twice}", {"twice": ", ".join(twice)})
    return names


def is_nothing(value: object) -> bool:
    """Whether a field says nothing, and is left out of the plain form: that of a specification without it."""
    return value is None or value is False or value == ()


LanguageTag = Annotated[str, Field(max_length=64), AfterValidator(_known_language)]
LanguageTags = Annotated[tuple[LanguageTag, ...], Field(max_length=256), AfterValidator(_each_once)]
TaskName = Annotated[str, Field(max_length=128, pattern=r"^[^\s/\\][^/\\]*$")]
TaskNames = Annotated[tuple[TaskName, ...], Field(max_length=256), AfterValidator(_all_differ)]
TextField = Annotated[str, Field(min_length=1, max_length=128)]
Uri = Annotated[str, Field(min_length=1, max_length=1024)]


class Broken(NamedTuple):
    """A broken rule between fields: which field, what is wrong, and what to do."""

    field: str
    problem: str
    remedy: str


class Part(BaseModel):
    """Common rules: no unknown fields, finite numbers, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        unsafe = first_unsafe(value) if isinstance(value, str) else None
        if unsafe is not None:
            raise PydanticCustomError("value", "holds a character that no terminal shows ({where})", {"where": unsafe})
        return value

    def broken_rules(self) -> Iterator[Broken]:
        """The rules between fields that this part breaks."""
        return iter(())

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = tuple(self.broken_rules())
        if broken:
            raise PydanticCustomError("rules", "breaks rules between its fields", {"broken": broken})
        return self
