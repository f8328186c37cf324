"""`postgresql://user:password@host:port/dbname?keyword=value` → nodes, as if it had been written as a mapping.

A parser of our own, because libpq's and urllib's errors repeat parts of the URL, which may be parts of the password.
No message here repeats any of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from ._nodes import Span, YamlNode
from ._problems import Problems

_SCHEME = re.compile(r"postgres(?:ql)?://")
_AUTHORITY = re.compile(r"[^/?]*")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(?::([0-9]*))?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

Part = tuple[str, Span]


class _BadUrl(ValueError):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def replace_url(node: YamlNode, problems: Problems) -> None:
    """Turn a URL into a mapping of its parts in place; one that cannot be read is taken out."""
    if isinstance(node.value, dict) or node.value is None:
        return
    try:
        parts = list(_parts(node.text))
        values = {keyword: (_decoded(node.text[slice(*span)]), span) for keyword, span in parts}
        if len(values) < len(parts):
            raise _BadUrl("the URL gives a keyword twice", "Keep one of them.")
    except _BadUrl as error:
        problems.add(node, str(error), error.hint)
        node.take_out()
        return
    node.value = {keyword: _child(node, keyword, value, span) for keyword, (value, span) in values.items()}


def _child(node: YamlNode, keyword: str, value: str, span: Span) -> YamlNode:
    """A part of the URL at the URL's own place; it stands in the file as far as its characters do."""
    literal = ((0, len(value)),) if node.holds_literal(*span) else ()
    # The path of a part is that of the URL, so it has no key of its own; the keyword is in the parent's dict.
    return YamlNode(node.line, node.column, value, text=value, parent=node, literal=literal)


def _parts(url: str) -> Iterator[Part]:
    """Each keyword with the span of its still encoded value."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise _BadUrl(
            "neither a mapping nor a postgresql:// URL", "Write {host: …, port: …} or postgresql://host:port/dbname."
        )
    authority = _AUTHORITY.match(url, scheme.end())
    assert authority is not None
    # With more than one @, or one behind the host, nobody can say where the password ends.
    if url.count("@") > authority[0].count("@") or authority[0].count("@") > 1 or "#" in url:
        raise _BadUrl("the URL holds an @ or # that is not part of its form", _ENCODE)
    yield from _user_and_password(url, authority.start(), authority.end())
    at = url.find("@", authority.start(), authority.end())
    yield from _host_and_port(url, at + 1 if at >= 0 else authority.start(), authority.end())
    query = url.find("?", authority.end())
    path_end = query if query >= 0 else len(url)
    if path_end > authority.end() + 1:
        yield "dbname", _without(url, "/", (authority.end() + 1, path_end), "the database name in the URL holds a /")
    if query >= 0:
        yield from _query(url, query + 1)


_ENCODE = (
    "In a URL @ : / ? # and % of a name or password are percent-encoded (%40 %3A %2F %3F %23 %25); or write a mapping."
)


def _user_and_password(url: str, start: int, end: int) -> Iterator[Part]:
    at = url.find("@", start, end)
    if at < 0:
        return
    colon = url.find(":", start, at)
    if (colon if colon >= 0 else at) > start:
        yield "user", (start, colon if colon >= 0 else at)
    if colon >= 0:
        yield "password", _without(url, ":", (colon + 1, at), "the password in the URL holds a colon")


def _without(url: str, character: str, span: Span, message: str) -> Span:
    if character in url[slice(*span)]:
        raise _BadUrl(message, _ENCODE)
    return span


def _host_and_port(url: str, start: int, end: int) -> Iterator[Part]:
    if "," in url[start:end]:
        raise _BadUrl(
            "the URL names several hosts", "Write hosts: [{host: …}, {host: …}] instead of primary and replicas."
        )
    match = _HOST_PORT.fullmatch(url, start, end)
    if match is None:
        raise _BadUrl("host and port in the URL are not readable", _ENCODE)
    first, last = match.span(1)
    if match[1].startswith("["):
        first, last = first + 1, last - 1
    if last > first:
        yield "host", (first, last)
    if match[2]:
        yield "port", match.span(2)


def _query(url: str, start: int) -> Iterator[Part]:
    for match in re.compile(r"[^&]+").finditer(url, start):
        keyword, equals, _ = match[0].partition("=")
        if not equals:
            raise _BadUrl("the URL's query is not of the form ?keyword=value", _ENCODE)
        yield keyword, (match.start() + len(keyword) + 1, match.end())


def _decoded(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise _BadUrl("a % in the URL that starts no percent-encoding", _ENCODE)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _BadUrl("percent-encoding in the URL that is not UTF-8", _ENCODE) from None
