"""Edits of the text of a topology file that leave every other line as it is: comments, order, quotes, indentation.

The library `yaml-edit` changes the text in place. What it wrote is read again by our own reader and compared with the
same edit of the plain data: text that does not say exactly that is never given out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from ..errors import ConfigError, EditRefused, Problem, ShardpoolError
from ..patches import Insert, Operation, Put, Remove, RenameKey, applied
from ._masking import masked_text
from ._problems import Problems
from ._scalars import AmbiguousScalar, resolve
from ._yaml import Unreadable, read_yaml

_BY_HAND = "Write the change into a copy of the file, and run: shardpool topology apply COPY"


@lru_cache(maxsize=2)
def file_data(text: str, *, file: str = "<string>") -> Any:
    """The plain data of a text, variables not filled in: not to be changed. Raises `ConfigError` for what is no YAML.

    An edit needs the old and the new text several times, and reading 4096 entries takes 25 ms.
    """
    problems = Problems(file)
    try:
        root = read_yaml(text, problems)
    except Unreadable:
        root = None
    if root is None or problems:
        raise problems.error()
    return root.plain()


def value_data(text: str) -> Any:
    """A value as it would stand in the file: `20`, `5s`, `{host: pg-4}`. Raises `ConfigError`."""
    problems = Problems("value")
    try:
        node = read_yaml(text, problems)
    except Unreadable:
        node = None
    if node is None or problems:
        why = Problem("", "it cannot be read as YAML", "Quote text that holds a colon, comma or #.", file="the value")
        raise ConfigError([why])
    return node.plain()


def edit_text(text: str, operations: Iterable[Operation]) -> str:
    """The text after the operations. Raises `EditRefused` where that cannot be written without touching other lines."""
    try:
        import yaml_edit
    except ModuleNotFoundError:
        hint = "pip install 'shardpool[edit]'. Without it, edit the file by hand and raise its epoch."
        raise EditRefused("editing needs the package yaml-edit", hint=hint) from None

    operations = list(operations)
    data = file_data(text)
    try:
        document = yaml_edit.Document.parse(text)
        for operation in operations:
            _apply(document, operation)
        written = str(document)
        if file_data(written) == applied(data, operations):
            return written
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ShardpoolError):
        # Nothing is chained: the library's own errors may quote the file.
        pass
    raise EditRefused("this file is written in a way that the edit cannot be made in place", hint=_BY_HAND)


def _apply(document: Any, operation: Operation) -> None:
    *way, last = operation.path
    above = document.as_mapping()
    for part in way:
        node = above[part]
        above = node.as_mapping() or node.as_sequence()
    match operation:
        case Put(value=value) if isinstance(last, int) and not _is_mapping(above):
            above[last] = _node(value, flow=True)
        case Put(value=value):
            above.set(last, _node(value, flow=_siblings_flow(above)))
        case Remove():
            del above[last]
        case RenameKey(name=name):
            above.rename_key(last, name)
        case Insert(index=index, value=value):
            items = above[last].as_sequence()
            items.insert(index, _node(value, flow=_items_flow(items)))


def _is_mapping(node: Any) -> bool:
    return hasattr(node, "rename_key")


def _siblings_flow(mapping: Any) -> bool:
    """Whether a new mapping is to be written in braces: as its neighbours are, or where there are none."""
    return _items_flow(mapping) if len(mapping) else True


def _items_flow(container: Any) -> bool:
    nested = [inner for node in container.values() if (inner := node.as_mapping() or node.as_sequence()) is not None]
    return all(node.is_flow_style() for node in nested[-1:])


def _node(value: Any, *, flow: bool) -> Any:
    import yaml_edit

    if isinstance(value, Mapping):
        made = yaml_edit.Mapping(flow=flow)
        for key, item in value.items():
            made.set(key, _node(item, flow=True))
        return made
    if isinstance(value, list):
        return [_node(item, flow=True) for item in value]
    if isinstance(value, str):
        return yaml_edit.ScalarValue(value, "plain" if _reads_back(value) else "double-quoted")
    return value


def _reads_back(text: str) -> bool:
    """Whether the text says itself without quotes, in a list of one line as well."""
    if not text or text != text.strip() or set(text) & set("\n\"'#,[]{}&*!|>%@`\\") or text[0] in "-?:" or ": " in text:
        return False
    try:
        return resolve(text) == text and not text.endswith(":")
    except AmbiguousScalar:
        return False


def text_diff(old: str, new: str, name: str) -> str:
    """The lines that differ, as `diff -U1` shows them, with every password masked. Both texts have to be good YAML."""
    before, after = old.splitlines(), new.splitlines()
    shown_before, shown_after = masked_text(old).splitlines(), masked_text(new).splitlines()
    lines = [f"--- {name}", f"+++ {name} (new)"]
    for group in SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(1):
        (_, first, _, start, _), (_, _, last, _, end) = group[0], group[-1]
        lines.append(f"@@ -{first + 1},{last - first} +{start + 1},{end - start} @@")
        for kind, was_from, was_to, now_from, now_to in group:
            if kind == "equal":
                lines += [f" {line}" for line in shown_before[was_from:was_to]]
            else:
                lines += [f"-{line}" for line in shown_before[was_from:was_to]]
                lines += [f"+{line}" for line in shown_after[now_from:now_to]]
    return "\n".join(lines)
