"""Connection settings: checked keyword by keyword, then laid over one another into an endpoint's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import nearest
from ..topology import Secret
from ._libpq import KEYWORDS, NUMBERS, REFUSED, VALUES, is_local
from ._nodes import YamlNode
from ._problems import Problems

PlainPasswords = Literal["refuse", "allow"]

_PASSWORD_FIELDS = ("password", "password_file")
_REFER = 'Write password: "${VARIABLE}" or password_file: PATH; plain_passwords: allow permits it here.'
_NO_CONTROL = "Is there a line break at the end of the variable, or of the block of text?"
_OWN_FIELDS = "Port, user and password have fields of their own."
# libpq goes on without TLS where the other side says so:
# https://www.postgresql.org/docs/18/libpq-ssl.html#LIBPQ-SSL-PROTECTION
_NO_TLS = ("allow", "prefer")
_SAY_WHAT_IS_MEANT = "Leave it out, which is verify-full; require or disable say openly that the server proves nothing."
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

    def check(self, node: YamlNode | None, own_fields: Iterable[str] = ()) -> None:
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

    def check_tls(self, levels: Sequence[YamlNode | None], params: Mapping[str, str]) -> None:
        """Report settings that look like TLS and are none: whoever is in between says that there is no TLS here."""
        if params.get("sslmode") not in _NO_TLS or _is_this_machine(params):
            return
        node = next(mode for level in reversed(levels) if level is not None and (mode := level.at("sslmode")))
        self._problems.add(node, f"sslmode {node.text} to another machine protects nothing", _SAY_WHAT_IS_MEANT)

    def _check_password(self, field: str, node: YamlNode) -> None:
        if isinstance(node.value, dict | list) or node.value is None:
            self._problems.add(node, "must be text", 'Put it in quotes: "…".')
            node.take_out()
        elif _unprintable(node.text):
            self._problems.add(node, "must not hold control characters", _NO_CONTROL)
        elif field == "password" and self._plain_passwords == "refuse" and node.holds_literal(0, len(node.text)):
            self._problems.add(node, "a password stands in the file", _REFER)

    def _check_keyword(self, keyword: str, node: YamlNode, own: Sequence[str]) -> None:
        if keyword in KEYWORDS:
            self._check_value(keyword, node)
        elif keyword in REFUSED:
            self._problems.add_at_key(node, f"{keyword} cannot be set here", REFUSED[keyword])
        elif node.key is None:
            # A part of a URL. It is told only as far as it is nearly a keyword: a password may hold an & and a =.
            self._problems.add(node, "unknown keyword in the URL", nearest(keyword, KEYWORDS))
        elif keyword == "max_lag":
            self._problems.add_at_key(node, "unknown field", "Replicas have it, or the shard for all of its replicas.")
        else:
            self._problems.add_unknown_field(node, (*KEYWORDS, *own))

    def _check_value(self, keyword: str, node: YamlNode) -> None:
        wrong = _wrong_value(keyword, node)
        if wrong is not None:
            self._problems.add(node, *wrong)
            # Nothing is to be made of it: a port of two numbers would not even pair with its host.
            node.take_out()


def _wrong_value(keyword: str, node: YamlNode) -> tuple[str, str] | None:
    """What is wrong with a keyword's value, and a hint; the value is not told, as it may be a misplaced password."""
    meaning = KEYWORDS[keyword]
    if isinstance(node.value, bool):
        return "must be text or a number", "Write 1 or 0 for yes or no."
    if isinstance(node.value, dict | list) or node.value is None:
        return "must be text or a number", meaning
    if _unprintable(node.text):
        return "must not hold control characters", _NO_CONTROL
    if keyword != "options" and any(mark in node.text for mark in _LOOKS_LIKE_CONNINFO):
        return "a whole connection string", "Write it as primary: postgresql://…, or as separate fields."
    if keyword in NUMBERS and not _is_number(keyword, node.text):
        return f"must be {'a port from 1 to 65535' if keyword == 'port' else 'a whole number'}", meaning
    if keyword in VALUES and node.text not in VALUES[keyword]:
        return "must be one of " + ", ".join(VALUES[keyword]), meaning
    return _wrong_host(node.text) if keyword in ("host", "hostaddr") else None


def _wrong_host(host: str) -> tuple[str, str] | None:
    if "," in host:
        return "several hosts", "Write hosts: [{host: …}, {host: …}] instead of primary and replicas."
    if "@" in host[1:] or any(character.isspace() for character in host):
        return "is not a host name, address or socket directory", _OWN_FIELDS
    return None


def _is_number(keyword: str, text: str) -> bool:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return False
    return keyword != "port" or 1 <= int(text) <= 65535


def _unprintable(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def connection(levels: Sequence[YamlNode | None], folder: Path | None, **fixed: str) -> Connection:
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
    if _is_this_machine(params):
        return defaults
    return defaults | {"sslmode": "verify-full", "require_auth": "scram-sha-256"}


def _is_this_machine(params: Mapping[str, str]) -> bool:
    hosts = (params.get("hostaddr") or params.get("host", "")).split(",")
    return "service" not in params and all(map(is_local, hosts))


def _in_folder(path: str, folder: Path | None) -> str:
    return path if folder is None else str(folder / Path(path).expanduser())
