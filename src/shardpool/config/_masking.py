"""The text of a topology file with no password in it: for people, line by line as the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import yaml

from ._yaml import LOADER

_SECRET = re.compile("pass|pwd|secret", re.I)
_NO_SECRETS = ("password_file", "passfile", "plain_passwords")
# Up to the last @: a password may hold one.
_USER_INFO = re.compile(r"(://[^:/@\s]*):\S*@")
_QUERY = re.compile(r"\?[^\s\"'#]*")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_ASSIGNED_SECRET = re.compile(r"((?:pass|pwd|secret)\w*[\"']?\s*[:=]\s*)\S+", re.I)

MASK = "***"


def is_secret(key: object) -> bool:
    """Whether what stands under this key is a password, or may be."""
    return bool(_SECRET.search(str(key))) and key not in _NO_SECRETS


def masked_url(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    text = _USER_INFO.sub(rf"\1:{MASK}@", text)
    return _QUERY.sub(lambda found: f"?{MASK}" if _SECRET.search(unquote(found[0])) else found[0], text)


def masked_text(text: str) -> str:
    """The text with every password masked, also in comments; it has as many lines. It has to be good YAML."""
    parts, end = [], 0
    for first, last, value in _secrets(text):
        parts += [text[end:first], re.sub(r"[^\r\n]+", MASK, text[first:last]) if value is None else value]
        end = last
    masked = "".join([*parts, text[end:]])
    return _COMMENT.sub(lambda found: masked_url(_ASSIGNED_SECRET.sub(rf"\1{MASK}", found[0])), masked)


def _secrets(text: str) -> Iterator[tuple[int, int, str | None]]:
    """Where passwords stand, ascending, and what to write there; None: the mask."""
    events = list(yaml.parse(text, Loader=LOADER))
    anchors = {event.anchor for event, secret in _keyed(events) if secret and isinstance(event, yaml.AliasEvent)}
    for event, secret in _keyed(events):
        if not isinstance(event, yaml.ScalarEvent):
            continue
        first, last = _span(event)
        if event.anchor is not None:
            # The anchor stands before the value, and is part of the event.
            first = text.index(event.anchor, first) + len(event.anchor)
            first += len(text[first:last]) - len(text[first:last].lstrip())
        if (secret or (event.anchor is not None and event.anchor in anchors)) and event.value:
            yield first, last, None
        elif "://" in event.value and masked_url(event.value) != event.value:
            written = text[first:last]
            plain = event.value in written
            yield first, last, written.replace(event.value, masked_url(event.value)) if plain else None


def _span(event: Any) -> tuple[int, int]:
    return event.start_mark.index, event.end_mark.index


def _keyed(events: list[Any]) -> Iterator[tuple[Any, bool]]:
    """Every event, and whether it is below a key of a secret."""
    # One entry for each open container: is it a mapping, is the next scalar a key, is all in it secret.
    opened: list[list[bool]] = []
    next_secret = False
    for event in events:
        kind = type(event)
        if kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
            opened.pop()
            next_secret = bool(opened) and opened[-1][2]
            continue
        here = opened[-1] if opened else [False, False, False]
        is_key = here[0] and here[1]
        secret = not is_key and (next_secret or here[2])
        yield event, secret
        if here[0] and kind in (yaml.ScalarEvent, yaml.AliasEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent):
            here[1] = not here[1]
            next_secret = here[2] or (is_key and kind is yaml.ScalarEvent and is_secret(event.value))
        if kind in (yaml.MappingStartEvent, yaml.SequenceStartEvent):
            opened.append([kind is yaml.MappingStartEvent, kind is yaml.MappingStartEvent, secret])
            next_secret = secret
