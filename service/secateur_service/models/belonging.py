"""Whether a checkpoint's parts belong together: configuration, weights and tokenizer.

Covers what `open_checkpoint` does not check because it takes transformers. Needs no torch, and only the headers of the
weights, so that it can run before a model is fetched.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from secateur_service.models.architectures import ROWS, WRAPPERS
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.companions import is_readable, take_companions
from secateur_service.models.configuration import text_configuration, whole_configuration
from secateur_service.models.files import Use, rule_of
from secateur_service.models.shapes import expected_shapes
from secateur_service.models.tokenizer import TOKENIZER_BYTES, check_ids, load_tokenizer


def load_libraries() -> None:
    """Load what `check_model` needs, in a process from which others are forked."""
    from transformers import AutoTokenizer  # noqa: F401
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for model_type in (*ROWS, *WRAPPERS):
        CONFIG_MAPPING[model_type]


def check_model(checkpoint: Checkpoint) -> None:
    """Check that configuration, weights and tokenizer form one model that transformers can build and tokenise with.

    Raises:
        ModelRefusedError: they do not; the message names file, key or tensor, what was found and what is expected.
    """
    whole = whole_configuration(checkpoint)
    check_tensors(checkpoint, expected_shapes(text_configuration(checkpoint), checkpoint.architecture))
    wrapper = checkpoint.architecture.wrapper
    if wrapper is not None:
        check_towers(checkpoint, wrapper.shapes(whole))
    rows = checkpoint.tensors[checkpoint.embedding_name].shape[0]
    with _companions_taken(checkpoint) as taken:
        check_ids(load_tokenizer(taken.tokenizer_folder), rows)


@contextlib.contextmanager
def _companions_taken(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint with the files that a job would take, so that files it would leave out cause no refusal."""
    names = [name for name in TOKENIZER_BYTES if (checkpoint.tokenizer_folder / name).exists()]
    beside = [name for name in names if rule_of(name).use is Use.CARRIED or name.endswith(".jinja")]
    if checkpoint.companions is not None or all(is_readable(checkpoint.folder / name, name) for name in beside):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="companions-") as folder:
        companions = take_companions(checkpoint.folder, names, Path(folder), checkpoint.config)
        yield replace(checkpoint, companions=companions.folder)


def check_tensors(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the tensors have the names and shapes that the configuration implies, and that there are no others.

    Those of a multimodal model's towers are left to `check_towers`.

    Args:
        checkpoint: the checkpoint to check.
        shapes: shape of every parameter of the model, by its name in transformers.

    Raises:
        ModelRefusedError: a tensor is missing, has a different shape or belongs to no such model.
    """
    known = {checkpoint.head_name, *checkpoint.beside}
    unclaimed: dict[str, int] = {}  # elements that no parameter has asked for yet
    for name, shape in shapes.items():
        place = checkpoint.place_of(name)
        stored = place.stored
        known.add(stored.name)
        if place.info.shape != shape:
            within = "" if place.part is None else f", which holds {name},"
            found = list(place.info.shape)
            raise ModelRefusedError(f"{stored.name}{within} has shape {found}, config.json asks for {list(shape)}")
        unclaimed[stored.name] = unclaimed.get(stored.name, math.prod(stored.shape)) - math.prod(shape)
    for name in [name for name, left in unclaimed.items() if left > 0]:
        found = list(checkpoint.tensors[name].shape)
        raise ModelRefusedError(f"{name} has shape {found}, which is more than config.json asks for")
    for name in sorted(checkpoint.tensors.keys() - known):
        raise ModelRefusedError(f"{name} is a tensor that a {checkpoint.model_type} model does not have")


def check_towers(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the same of what lies beside the text model of a multimodal model.

    Args:
        checkpoint: the checkpoint to check.
        shapes: shape of every parameter and stored buffer there, by its name in transformers.

    Raises:
        ModelRefusedError: a tensor is missing, has a different shape or belongs to no such model.
    """
    name_of = checkpoint.architecture.model_name
    stored = {name_of(name): checkpoint.tensors[name] for name in sorted(checkpoint.beside)}
    expected = {name_of(name): shape for name, shape in shapes.items()}
    for name in sorted(expected.keys() - stored.keys()):
        raise checkpoint.lacking(name)
    for name, info in stored.items():
        if name not in expected:
            raise ModelRefusedError(f"{info.name} is a tensor that a {checkpoint.model_type} model does not have")
        if info.shape != expected[name]:
            raise ModelRefusedError(
                f"{info.name} has shape {list(info.shape)}, config.json asks for {list(expected[name])}"
            )
