"""Variables in values: Docker Compose's grammar, and which characters of the result stand in the file."""

from __future__ import annotations

import pytest

from shardpool.config import parse_topology
from shardpool.config._interpolation import BadReference, expand

ENV = {"A": "alpha", "B": "beta", "EMPTY": "", "ODD": "${A} $$ } :-", "_X1": "x"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("${A}", "alpha"),
        ("<${A}|${B}>", "<alpha|beta>"),
        ("${_X1}", "x"),
        ("${EMPTY}", ""),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$$${A}", "$${A}"),
        ("${ODD}", "${A} $$ } :-"),
        ("${A:-d}", "alpha"),
        ("${A-d}", "alpha"),
        ("${NONE:-d}", "d"),
        ("${NONE-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-${B}}", "beta"),
        ("${NONE:-<${NONE:-${B}}>}", "<beta>"),
        ("${A:-${NONE}}", "alpha"),
        ("${NONE:-a:b-c}", "a:b-c"),
        ("${NONE:-$$}", "$"),
        ("${A:?must be set}", "alpha"),
        ("${EMPTY?must be set}", ""),
        ("${A:+other}", "other"),
        ("${EMPTY:+other}", ""),
        ("${EMPTY+other}", "other"),
        ("${NONE+other}", ""),
        ("${NONE:+${NONE}}", ""),
        ("{A} }{ %s", "{A} }{ %s"),
    ],
)
def test_references_are_replaced_as_in_docker_compose(text: str, expanded: str) -> None:
    assert expand(text, ENV).text == expanded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "variable NONE is not set"),
        ("${NONE:?tell me}", "variable NONE is not set: tell me"),
        ("${EMPTY:?tell me}", "variable EMPTY is not set: tell me"),
        ("${NONE?}", "variable NONE is not set"),
        ("${NONE:-${NONE}}", "variable NONE is not set"),
        ("$A", "starts no reference"),
        ("5$", "starts no reference"),
        ("${}", "starts no reference"),
        ("${1A}", "starts no reference"),
        ("${A", "closing brace"),
        ("${A b}", "closing brace"),
        ("${A:-d", "closing brace"),
        ("${NONE:-" * 20 + "}" * 20, "starts no reference"),
    ],
)
def test_what_is_no_reference_or_not_set_is_an_error(text: str, message: str) -> None:
    with pytest.raises(BadReference, match=message) as caught:
        expand(text, ENV)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("${A}", ""),
        ("x${A}y", "xy"),
        ("${NONE:-d}", "d"),
        ("${A:-d}", "alpha"),
        ("${A:-${B}}", ""),
        ("${NONE:-${B}}", ""),
        ("${A:+d}", "d"),
        ("$$", "$"),
    ],
)
def test_what_stands_in_the_file_is_known(text: str, literal: str) -> None:
    expanded = expand(text, ENV)
    assert "".join(expanded.text[slice(*span)] for span in expanded.literal) == literal


def test_a_variable_cannot_change_the_shape_of_the_file() -> None:
    text = 'version: 1\nfleet: f\nepoch: 1\nshards: {s0: {primary: {host: "${H}"}}}'
    host = parse_topology(text, env={"H": "a}}, s1: {primary: {host: b"[:1]}).shard("s0").primary.param("host")
    assert host == "a"
    options = parse_topology(text.replace("host", "options"), env={"H": "a}, user: root #\"'"}).shard("s0").primary
    assert options.params[1] == ("options", "a}, user: root #\"'")


def test_names_are_not_replaced() -> None:
    text = "version: 1\nfleet: f\nepoch: 1\nshards: {s0: {primary: {host: a}}}\nsingle_tables: {'${A}': s0}"
    with pytest.raises(Exception, match="is not a table name"):
        parse_topology(text, env=ENV)
