"""Reads untrusted YAML within limits that are checked before anything is built.

A few lines of aliases (`*name`) can expand to billions of values, and any code that iterates over the values expands
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.docinfo import DocInfo, Version
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from secateur._yaml_faults import Fault, fault_of, undecodable

_SHOWN_CHARACTERS = 80


class UnreadableYamlError(ValueError):
    """The text is not YAML, or exceeds a limit; the message says which, without naming the file.

    Attributes:
        line: line of the fault, counted from 1; None if it is not a single line.
        column: likewise.
    """

    def __init__(self, problem: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(problem)
        self.line = line
        self.column = column

    @property
    def place(self) -> str:
        """Where it is, to follow the name of the file; empty if it is not a single line."""
        column = "" if self.column is None else f", column {self.column}"
        return "" if self.line is None else f", line {self.line}{column}"


@dataclass(frozen=True)
class YamlLimits:
    """Limits on a YAML document. The parser takes some 15 seconds per megabyte.

    Attributes:
        size_bytes: size of the text.
        values: number of keys, strings, numbers, lists and mappings, with all aliases expanded.
        depth: how deeply lists and mappings may be nested.
    """

    size_bytes: int
    values: int = 20_000
    depth: int = 32


def parse_yaml(content: bytes, limits: YamlLimits) -> Any:
    """Parse a YAML 1.2 document in UTF-8; None if it is empty.

    Raises:
        UnreadableYamlError: it is not YAML, or exceeds a limit.
    """
    if len(content) > limits.size_bytes:
        raise UnreadableYamlError(f"{len(content)} bytes are too many; at most {limits.size_bytes} are read")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _unreadable(undecodable(content, error)) from error
    try:
        constructor, node = _compose(text)
        if node is None:
            return None
        _check(node, limits)
        return _construct(constructor, node)
    except UnreadableYamlError:
        raise
    except RecursionError as error:
        raise UnreadableYamlError(f"it is nested deeper than {limits.depth} levels") from error
    except YAMLError as error:
        raise _unreadable(fault_of(error, text)) from error
    except ValueError as error:  # a limit
        raise UnreadableYamlError(str(error)) from error


def _unreadable(fault: Fault) -> UnreadableYamlError:
    return UnreadableYamlError(fault.problem, fault.line, fault.column)


def _compose(text: str) -> tuple[Any, Node | None]:
    """The constructor, and the root node of the only document."""
    yaml = YAML(typ="safe", pure=True)
    document = DocInfo()
    yaml.doc_infos.append(document)  # records a %YAML directive
    constructor, _ = yaml.get_constructor_parser(text)
    with contextlib.suppress(AssertionError):  # raised by the library for versions that it does not know
        node = constructor.composer.get_single_node()
        if document.doc_version in (None, Version(1, 2)):
            return constructor, node
    # Another version reads the same text differently, such as `no` as false.
    raise UnreadableYamlError("it says that it is another version of YAML; write it in YAML 1.2", 1)


def _construct(constructor: Any, root: Node) -> Any:
    """The data that a node represents.

    Raises:
        UnreadableYamlError: a value does not match its tag or form.
    """
    try:
        return constructor.construct_document(root)
    except (YAMLError, RecursionError):
        raise
    except Exception as error:  # the library passes on whatever a value's conversion raises
        fresh = YAML(typ="safe", pure=True).constructor  # the failed one keeps state
        node = next((node for node in _scalars(root) if not _is_constructible(fresh, node)), root)
        shown = repr(node.value)[:_SHOWN_CHARACTERS] if isinstance(node, ScalarNode) else "a value"
        kind = str(node.tag).rpartition(":")[2]
        raise UnreadableYamlError(
            f"{shown} is no {kind}; put it between quotes to make it a text", *_place(node)
        ) from error


def _scalars(root: Node) -> Iterator[ScalarNode]:
    """All scalars of a document that passed `_check`, each node once."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, ScalarNode):
            yield node
        elif isinstance(node, MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            waiting += node.value


def _is_constructible(constructor: Any, node: ScalarNode) -> bool:
    try:
        constructor.construct_document(node)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _place(node: Node) -> tuple[int | None, int | None]:
    mark = node.start_mark
    return (None, None) if mark is None else (mark.line + 1, mark.column + 1)


def _check(root: Node, limits: YamlLimits) -> None:
    """Count a node's values with all aliases expanded, visiting each node once.

    Raises:
        ValueError: there are too many values, or they are nested too deeply, for example a node within itself.
    """
    known: dict[int, int] = {}

    def count(node: Node, depth: int) -> int:
        if depth > limits.depth:
            raise ValueError(f"it is nested deeper than {limits.depth} levels, or within itself")
        if id(node) not in known:
            inner: list[Node] = []
            if isinstance(node, MappingNode):
                inner = [part for pair in node.value for part in pair]
            elif isinstance(node, SequenceNode):
                inner = node.value
            known[id(node)] = 1 + sum(count(part, depth + 1) for part in inner)
        return known[id(node)]

    if count(root, 1) > limits.values:
        raise ValueError(f"it has more than {limits.values} values, with aliases (*name) written out")
