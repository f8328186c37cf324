"""Connection settings: checked keyword by keyword, then laid over one another into an endpoint's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import nearest
from ..topology import Secret
from ._libpq import KEYWORDS, NUMBERS, REFUSED, VALUES, is_local
from ._nodes import Node
from ._problems import Problems

PlainPasswords = Literal["refuse", "allow"]

_PASSWORD_FIELDS = ("password", "password_file")
_REFER = 'Write password: "${VARIABLE}" or password_file: PATH; plain_passwords: allow permits it here.'
_LOOKS_LIKE_CONNINFO = ("://", "password=", "password =")


@dataclass(frozen=True, slots=True)
class Connection:
    """What an endpoint connects with."""

    params: tuple[tuple[str, str], ...]
    password: Secret | None
    password_file: str | None


class ConnectChecks:
    """Checks each mapping of connection settings once, wherever it stands."""

    def __init__(self, problems: Problems, plain_passwords: PlainPasswords) -> None:
        self._problems = problems
        self._plain_passwords = plain_passwords

    def check(self, node: Node | None, own_fields: Iterable[str] = ()) -> None:
        """Report what is wrong with the settings in `node`, whose other fields are `own_fields`."""
        if node is None:
            return
        own = (*own_fields, *_PASSWORD_FIELDS)
        for keyword, child in list(node.fields.items()):
            if keyword in _PASSWORD_FIELDS:
                self._check_password(keyword, child)
            elif keyword not in own:
                self._check_keyword(str(keyword), child, own)
        if all(node.at(field) for field in _PASSWORD_FIELDS):
            self._problems.add_at_key(node, "password and password_file", "Keep one of them.")

    def _check_password(self, field: str, node: Node) -> None:
        if isinstance(node.value, dict | list) or node.value is None:
            self._problems.add(node, "must be text", 'Put it in quotes: "…".')
            node.take_out()
        elif _unprintable(node.text):
            self._problems.add(node, "must not hold control characters")
        elif field == "password" and self._plain_passwords == "refuse" and node.holds_literal(0, len(node.text)):
            self._problems.add(node, "a password stands in the file", _REFER)

    def _check_keyword(self, keyword: str, node: Node, own: Sequence[str]) -> None:
        if keyword in KEYWORDS:
            self._check_value(keyword, node)
        elif keyword in REFUSED:
            self._problems.add_at_key(node, f"{keyword} cannot be set here", REFUSED[keyword])
        elif node.value is None and node.parent is not None:
            # `{password: a,b}` has a key "b" without value: the rest of a password, so it is not repeated.
            hint = "Quote text that holds a comma, colon, bracket or #."
            self._problems.add_at(
                node.key_line, node.key_column, node.parent.path, "unknown field without a value", hint
            )
        else:
            named = "" if node.key is not None else f' "{keyword}" in the URL'
            self._problems.add_at_key(node, f"unknown field{named}", nearest(keyword, (*KEYWORDS, *own)))

    def _check_value(self, keyword: str, node: Node) -> None:
        if isinstance(node.value, dict | list | bool) or node.value is None:
            self._problems.add(
                node,
                "must be text or a number",
                "Write 1 or 0 for yes or no." if isinstance(node.value, bool) else None,
            )
            node.take_out()
        elif _unprintable(node.text):
            self._problems.add(node, "must not hold control characters")
        elif keyword != "options" and any(mark in node.text for mark in _LOOKS_LIKE_CONNINFO):
            self._problems.add(
                node, "a whole connection string", "Write it as primary: postgresql://…, or as separate fields."
            )
        elif keyword in NUMBERS and not _is_number(keyword, node.text):
            self._problems.add(
                node, "must be a port from 1 to 65535" if keyword == "port" else "must be a whole number"
            )
        elif keyword in VALUES and node.text not in VALUES[keyword]:
            self._problems.add(node, "must be one of " + ", ".join(VALUES[keyword]))
        elif keyword in ("host", "hostaddr", "port"):
            self._check_host(node)

    def _check_host(self, node: Node) -> None:
        if "," in node.text:
            self._problems.add(
                node, "several hosts", "Write hosts: [{host: …}, {host: …}] instead of primary and replicas."
            )
        elif "@" in node.text[1:] or any(character.isspace() for character in node.text):
            self._problems.add(node, "is not a host name, address or socket directory")


def _is_number(keyword: str, text: str) -> bool:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return False
    return keyword != "port" or 1 <= int(text) <= 65535


def _unprintable(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def connection(levels: Sequence[Node | None], folder: Path | None, **fixed: str) -> Connection:
    """The settings of one endpoint: later levels override earlier ones, `fixed` overrides all, our defaults none.

    A password or password_file of one level replaces both of the levels before.
    """
    params: dict[str, str] = {}
    password, password_file = None, None
    for level in filter(None, levels):
        params |= {keyword: node.text for keyword, node in level.fields.items() if keyword in KEYWORDS}
        if any(field in level.fields for field in _PASSWORD_FIELDS):
            password, password_file = level.at("password"), level.at("password_file")
    params = _defaults(params | fixed) | params | fixed
    return Connection(
        params=tuple(sorted(params.items())),
        password=Secret(password.text) if password is not None and password.text else None,
        password_file=_in_folder(password_file.text, folder) if password_file is not None else None,
    )


def _defaults(params: dict[str, str]) -> dict[str, str]:
    """What holds where the file says nothing: a server elsewhere proves who it is, and is not told the password."""
    defaults = {"connect_timeout": "3"}
    hosts = (params.get("hostaddr") or params.get("host", "")).split(",")
    if "service" not in params and all(map(is_local, hosts)):
        return defaults
    return defaults | {"sslmode": "verify-full", "require_auth": "scram-sha-256"}


def _in_folder(path: str, folder: Path | None) -> str:
    return path if folder is None else str(folder / Path(path).expanduser())
