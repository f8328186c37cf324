"""Topology file → `Topology`: read, replace variables, check the shape, build; every problem in one `ConfigError`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Problem
from ..topology import Topology, qualified
from ._files import read_file
from ._interpolation import interpolate_tree
from ._keyspaces import build_keyspaces
from ._lookups import build_lookups
from ._models import TopologyFile
from ._moves import build_moves
from ._nodes import YamlNode, tree_of
from ._placements import ShardNames
from ._problems import Problems, TooManyProblems
from ._shards import ShardBuilder, replace_urls
from ._tables import check_tables
from ._validation import validate
from ._yaml import MAX_BYTES, Unreadable, read_yaml

VERSION = 1


def load_topology(path: str | os.PathLike[str], *, env: Mapping[str, str] | None = None) -> Topology:
    """The topology in a file, its variables taken from `env` (the environment if None). Reads the file.

    Raises `ConfigError` with every problem of the file, and when it cannot be read.
    """
    file = os.fspath(path)
    text = _read(file)
    return _parse(text, file, os.environ if env is None else env, Path(file).parent)


def parse_topology(
    text: str, *, file: str = "<string>", env: Mapping[str, str] | None = None, folder: Path | None = None
) -> Topology:
    """The topology in a text; `file` is how problems name it. A relative `password_file` starts at `folder`, if given.

    Raises `ConfigError` with every problem of the text.
    """
    return _parse(text, file, os.environ if env is None else env, folder)


def parse_data(data: Any, *, file: str) -> Topology:
    """The topology of plain data of the file's shape, in which no variable is; `file` is how problems name it.

    Raises `ConfigError` with every problem of it.
    """
    problems = Problems(file)
    try:
        topology = _of_tree(tree_of(data), None, problems)
    except TooManyProblems:
        topology = None
    if topology is None or problems:
        raise problems.error()
    return topology


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a topology file as it stands there. Reads the file; raises `ConfigError`."""
    return _read(os.fspath(path))


def _read(file: str) -> str:
    try:
        data = read_file(file, MAX_BYTES)
    except OSError as error:
        raise _unreadable(file, f"cannot be read: {error.strerror}", "Check the path and its permissions.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start
    # Outside of the handler: the decoder's exception holds the whole file, and would be chained to ours.
    line = data.count(b"\n", 0, at) + 1
    column = len(data[data.rfind(b"\n", 0, at) + 1 : at].decode(errors="replace")) + 1
    raise _unreadable(file, "not UTF-8", "Save the file as UTF-8.", line, column)


def _unreadable(file: str, message: str, hint: str, line: int = 0, column: int = 0) -> ConfigError:
    return ConfigError([Problem(path="", message=message, hint=hint, file=file, line=line, column=column)])


def _parse(text: str, file: str, env: Mapping[str, str], folder: Path | None) -> Topology:
    problems = Problems(file)
    try:
        topology = _topology(text, env, folder, problems)
    except (Unreadable, TooManyProblems):
        topology = None
    if topology is None or problems:
        # Outside of the handlers, so that no exception of a parser, which may quote the text, is chained to it.
        raise problems.error()
    return topology


def _topology(text: str, env: Mapping[str, str], folder: Path | None, problems: Problems) -> Topology | None:
    root = read_yaml(text, problems)
    problems.settle()
    interpolate_tree(root, env, problems)
    return _of_tree(root, folder, problems)


def _of_tree(root: YamlNode, folder: Path | None, problems: Problems) -> Topology | None:
    _check_version(root, problems)
    replace_urls(root, problems)
    # Before refused shards are taken out: what is wrong with a shard does not make the keyspaces wrong that name it.
    shards = root.at("shards")
    declared = [str(name) for name in shards.fields] if shards is not None else []
    file = validate(root, problems)
    if file is None:
        return None
    return _built(file, root, folder, declared, problems)


def _check_version(root: YamlNode, problems: Problems) -> None:
    node = root.at("version")
    if node is not None and (node.text != str(VERSION) or isinstance(node.value, dict | list)):
        hint = f"This shardpool reads version {VERSION} of the format; a later one needs a later shardpool."
        problems.add(node, f"must be {VERSION}", hint)


def _built(
    file: TopologyFile, root: YamlNode, folder: Path | None, declared: list[str], problems: Problems
) -> Topology:
    shards = ShardBuilder(file, root, folder, problems).build()
    names = ShardNames(declared, problems)
    keyspaces = build_keyspaces(file, root, names, problems)
    build_lookups(file, root, keyspaces, problems)
    check_tables(root, problems)
    for table in file.single_tables:
        names.check(root.fields["single_tables"].fields[table])
    table_moves = build_moves(file, root, keyspaces, names, problems)
    defaults = file.defaults
    timeout = defaults.timeout if defaults is not None else None
    return Topology(
        fleet=file.fleet,
        epoch=file.epoch,
        shards=shards,
        keyspaces=keyspaces,
        reference_tables=tuple(map(qualified, file.reference_tables)),
        single_tables={qualified(table): shard for table, shard in file.single_tables.items()},
        control=file.control,
        follows=file.topology,
        timeout=5.0 if timeout is None else timeout,
        table_moves=table_moves,
        id_block=file.id_block,
    )
