"""What the body of a function writes and calls, as far as its text shows; a function that a trigger runs, mostly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .remembered import remembered
from .statement import lexemes

# Triggers of PostgreSQL's own extensions, in C, that write no table.
_HARMLESS = frozenset("moddatetime insert_username autoinc lo_manage".split())
# What stands before a statement of a body.
_BEFORE = frozenset((";", "begin", "then", "else", "loop", "atomic"))
# Where UPDATE is no statement: FOR UPDATE, FOR NO KEY UPDATE, ON CONFLICT DO UPDATE.
_BEFORE_OTHER_UPDATE = frozenset(("for", "key", "do"))
_NAME = re.compile(r'[A-Za-z_\x80-\U0010ffff][\w$]*|"(?:[^"]|"")+"')


@dataclass(frozen=True, slots=True)
class Written:
    """A table that a body writes: its schema, empty where it is not given, and its name.

    `verbs` are those of INSERT, UPDATE and DELETE that may happen to its rows. `statement` are the words of the
    statement up to RETURNING, where it stands for itself.
    """

    schema: str
    name: str
    verbs: frozenset[str]
    statement: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """`unread` says why a body may do more than is known of it: empty where it does not.

    `assigned` are the columns of a trigger's row that it may set, `*` for any.
    """

    written: tuple[Written, ...] = ()
    calls: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()
    unread: str = ""


def body_of(language: str, text: str, *, is_trigger: bool = False) -> Body:
    """What the text of a function of this language does."""
    match language:
        case "plpgsql" | "sql":
            return _read(text)
        case "internal":
            return Body()
        case "c" if not is_trigger or text in _HARMLESS:
            return Body(unread="it reaches other databases" if text.startswith("dblink") else "")
    return Body(unread=f"it is written in {language}")


@remembered
def _read(text: str) -> Body:
    try:
        words = lexemes(text)
    except ValueError as error:
        return Body(unread=f"its text cannot be read: {error}")
    folded = [word if word[:1] in "\"'$" else word.lower() for word in words]
    written: list[Written] = []
    calls = set()
    for place, word in enumerate(folded):
        before = folded[place - 1] if place else ";"
        behind = folded[place + 1] if place + 1 < len(folded) else ""
        if word[:2] == 'u&"' or (word == "execute" and before != "."):
            what = "EXECUTE runs what its text does not show" if word == "execute" else "it has names in escapes"
            return Body(unread=what)
        if behind == "(" and _NAME.fullmatch(word):
            calls.add(_unquoted(word))
        for target in _targets(folded, place, before, behind):
            name = _name_at(folded, target)
            if name is not None:
                start = place if before in _BEFORE else None
                statement = _statement(words, folded, start) if start is not None else ()
                written.append(Written(*name, _verbs(word, folded[place:]), statement))
    return Body(tuple(written), frozenset(calls), frozenset(_assigned(folded)))


def _assigned(words: Sequence[str]) -> Iterator[str]:
    """What is given values of the row that a trigger runs for: by an assignment, or by INTO."""
    is_into = False
    for place, word in enumerate(words):
        before = words[place - 1] if place else ";"
        if word == "into":
            is_into = before not in ("insert", "merge")
        elif word in (";", "from"):
            is_into = False
        if word not in ("new", "old"):
            continue
        is_column = words[place + 1 : place + 2] == ["."]
        if before == "for" or (not is_column and (is_into or before in _BEFORE)):
            yield "*"
        elif is_column and (is_into or before in _BEFORE):
            yield _unquoted(words[place + 2])


def _targets(words: Sequence[str], place: int, before: str, behind: str) -> list[int]:
    """Where the names of tables stand that the word at this place begins to write."""
    match words[place]:
        case "insert" | "merge" if behind == "into":
            return [place + 2]
        case "delete" if behind == "from":
            return [_past_only(words, place + 2)]
        case "update" if before not in _BEFORE_OTHER_UPDATE:
            return [_past_only(words, place + 1)]
        case "copy" if before in _BEFORE:
            return [place + 1]
        case "truncate" if before in _BEFORE:
            return _truncated(words, place + 1)
    return []


def _past_only(words: Sequence[str], place: int) -> int:
    return place + 1 if words[place : place + 1] == ["only"] else place


def _truncated(words: Sequence[str], place: int) -> list[int]:
    place += words[place : place + 1] == ["table"]
    past = [_past_only(words, place)]
    while place < len(words) and words[place] != ";":
        if words[place] == ",":
            past.append(_past_only(words, place + 1))
        place += 1
    return past


def _name_at(words: Sequence[str], place: int) -> tuple[str, str] | None:
    parts = words[place : place + 3]
    if not parts or not _NAME.fullmatch(parts[0]):
        return None
    if len(parts) == 3 and parts[1] == "." and _NAME.fullmatch(parts[2]):
        return _unquoted(parts[0]), _unquoted(parts[2])
    return "", _unquoted(parts[0])


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _verbs(word: str, words: Sequence[str]) -> frozenset[str]:
    match word:
        case "update" | "delete":
            return frozenset((word.upper(),))
        case "insert" if "conflict" not in words[: words.index(";") if ";" in words else len(words)]:
            return frozenset(("INSERT",))
        case "truncate":
            return frozenset()
    return frozenset(("INSERT", "UPDATE", "DELETE") if word == "merge" else ("INSERT", "UPDATE"))


def _statement(words: Sequence[str], folded: Sequence[str], start: int) -> tuple[str, ...]:
    depth = 0
    for place in range(start, len(words)):
        depth += {"(": 1, ")": -1}.get(words[place], 0)
        if depth < 0 or (not depth and folded[place] in (";", "returning")):
            return tuple(words[start:place])
    return tuple(words[start:])


def with_params(statement: Sequence[str], columns: Sequence[str], key: Sequence[str]) -> str:
    """The statement of a trigger with parameters in the places of its row's columns, `$1` for the first of the key.

    OLD's columns are NEW's, too.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys((*key, *columns)), 1)}
    places = {name: f"${numbers[name]}" for name in columns}
    pieces: list[str] = []
    words = list(statement)
    while words:
        if [word.lower() for word in words[:2]] in (["new", "."], ["old", "."]) and len(words) > 2:
            name = _unquoted(words[2]) if words[2].startswith('"') else words[2].lower()
            pieces.append(", ".join(places.values()) if name == "*" else places.get(name, "null"))
            del words[:3]
        else:
            pieces.append(words.pop(0))
    return " ".join(pieces)
