"""PostgreSQL's own parser as a library (libpg_query), called by ctypes.

It is the one that `postgast` ships. Of that package neither Python code nor protobuf is imported, which would take ten
times as long as all else that a first statement needs: its library speaks JSON for trees, and what it takes to write
one down again is encoded by `wire`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from .wire import fields

_LIBRARIES = ("libpg_query.so", "libpg_query.dylib", "pg_query.dll")


class ParserError(Exception):
    """What the grammar refuses, in the words of PostgreSQL; `filename` is the file of its source that says so."""

    def __init__(self, message: str, filename: str | None) -> None:
        super().__init__(message)
        self.filename = filename


class Word(NamedTuple):
    """A word of a text by its number in the grammar, and the bytes from `start` to `end` where it stands."""

    number: int
    start: int
    end: int


def parse(sql: str) -> bytes:
    """The trees of a text, as JSON. Raises `ParserError`."""
    its = library()
    result = its.pg_query_parse(_encoded(sql))
    try:
        _check(result)
        return bytes(result.text)
    finally:
        its.pg_query_free_parse_result(result)


def deparse(tree: bytes) -> str:
    """The text of a `ParseResult` as protobuf encodes it. Raises `ParserError`."""
    its = library()
    result = its.pg_query_deparse_protobuf(_Bytes(len(tree), ctypes.cast(c_char_p(tree), c_void_p)))
    try:
        _check(result)
        return bytes(result.text).decode()
    finally:
        its.pg_query_free_deparse_result(result)


def scan(sql: str) -> list[Word]:
    """The words of a text, comments included. Raises `ParserError`."""
    its = library()
    result = its.pg_query_scan(_encoded(sql))
    try:
        _check(result)
        data = ctypes.string_at(result.bytes.data, result.bytes.size)
    finally:
        its.pg_query_free_scan_result(result)
    tokens = (dict(fields(value)) for number, value in fields(data) if number == _TOKENS)
    return [Word(token[_NUMBER], token.get(_START, 0), token.get(_END, 0)) for token in tokens]


# The numbers of fields in ScanResult and ScanToken.
_TOKENS, _START, _END, _NUMBER = 2, 1, 2, 4


def folder() -> Path:
    """Where `postgast` is installed. It is not imported."""
    spec = find_spec("postgast")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("postgast is not installed, which shardpool depends on")
    return Path(spec.submodule_search_locations[0])


def _encoded(sql: str) -> bytes:
    # As a text from Python that holds half of a pair of surrogates, which is no character.
    return sql.encode("utf-8")


def _check(result: Any) -> None:
    if result.error:
        error = result.error.contents
        filename = error.filename.decode() if error.filename else None
        raise ParserError((error.message or b"").decode("utf-8", "replace"), filename)


class _Error(Structure):
    _fields_ = (
        ("message", c_char_p),
        ("funcname", c_char_p),
        ("filename", c_char_p),
        ("lineno", c_int),
        ("cursorpos", c_int),
        ("context", c_char_p),
    )


class _Bytes(Structure):
    _fields_ = (("size", c_size_t), ("data", c_void_p))


class _Parsed(Structure):
    _fields_ = (("text", c_char_p), ("stderr", c_char_p), ("error", POINTER(_Error)))


class _Deparsed(Structure):
    _fields_ = (("text", c_char_p), ("error", POINTER(_Error)))


class _Scanned(Structure):
    _fields_ = (("bytes", _Bytes), ("stderr", c_char_p), ("error", POINTER(_Error)))


@cache
def library() -> ctypes.CDLL:
    """libpg_query, loaded when it is first needed."""
    shipped = [path for name in _LIBRARIES if (path := folder() / name).is_file()]
    name = str(shipped[0]) if shipped else ctypes.util.find_library("pg_query")
    if name is None:
        raise ImportError(f"no libpg_query in {folder()}, nor installed in the system")
    its = ctypes.CDLL(name)
    for function, takes, gives in (
        (its.pg_query_parse, c_char_p, _Parsed),
        (its.pg_query_deparse_protobuf, _Bytes, _Deparsed),
        (its.pg_query_scan, c_char_p, _Scanned),
        (its.pg_query_free_parse_result, _Parsed, None),
        (its.pg_query_free_deparse_result, _Deparsed, None),
        (its.pg_query_free_scan_result, _Scanned, None),
    ):
        function.argtypes, function.restype = (takes,), gives
    return its
