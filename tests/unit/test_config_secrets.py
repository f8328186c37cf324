"""No password is ever shown: not in a problem, a repr, a traceback or a description, wherever it stands."""

from __future__ import annotations

import json
import re
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardpool.config import describe, parse_topology
from shardpool.errors import ConfigError

# Every password holds this in three places, so that a part of one is found as well.
MARK = "Zqx"
SPECIAL = ":@/?#%&=+,!*|>'\"\\- $~`^;<()é"
pieces = st.text(alphabet=SPECIAL + "[]{}", max_size=4)
# A whole ${NAME} is a variable, and an error has to name it.
passwords = st.builds(lambda a, b: f"{MARK}{a}{MARK}{b}{MARK}", pieces, pieces).filter(
    lambda password: not re.search(r"\$\{.*\}", password)
)
unquoted = st.builds(
    lambda start, a, b: f"{start}{MARK}{a}{MARK}{b}{MARK}",
    st.text(alphabet="!&*|>%@`\"'0-[{", max_size=1),
    st.text(alphabet=SPECIAL, max_size=4),
    st.text(alphabet=SPECIAL, max_size=4),
)

HEAD = "version: 1\nfleet: shop\nepoch: 1\n"
CONNECT = [
    "defaults: {connect: {user: app, password: %s}}\nshards: {s0: {primary: {host: a}}}\n",
    "shards: {s0: {connect: {password: %s, user: app}, primary: {host: a}}}\n",
    "shards: {s0: {connect: {password: %s}, hosts: [{host: a}, {host: b}]}}\n",
    "shards: {s0: {primary: {host: a, password: %s}, replicas: [{host: b, password: %s}]}}\n",
    "shards:\n  s0:\n    primary:\n      host: a\n      password: %s\n",
    "shards:\n  s0:\n    primary:\n      password: %s\n      pasword: %s\n      sslpassword: %s\n",
    "shards: {s0: {primary: {host: a, password: [%s]}}}\n",
    "shards: {s0: {primary: {host: a, password: {a: %s}}}}\n",
    "shards: {s0: {primary: {host: a, passwrod: %s}}}\n",
    "shards: {s0: {password: %s, primary: {host: a}}}\n",
    "shards: {s0: {hosts: [{host: a, password: %s}]}}\n",
    "password: %s\nshards: {s0: {primary: {host: a, port: %s}}}\n",
    "shards: {s0: {primary: %s}}\n",
    "shards: {s0: {primary: {host: a, pool: {max_size: %s}}}}\n",
    "defaults: {timeout: %s}\nshards: {s0: {primary: {host: a}}}\ncontrol: %s\nplain_passwords: %s\n",
]
# A variable in the wrong place; a name that stands in the file itself is told.
MISPLACED = [
    "shards: {s0: {primary: {host: a}}}\nsingle_tables: {t: %s}\n",
    "shards: {s0: {primary: {host: a}}}\nkeyspaces: {k: {key: date, range: [{below: %s, shard: s0}, {shard: %s}]}}\n",
    "shards: {s0: {primary: {host: a}}}\nkeyspaces: {k: {key: bigint, hash: {buckets: %s, owners: {s0: %s}}}}\n",
]
# Where unquoted text stands as a value of its own; elsewhere it would be a name that is no secret.
UNQUOTED = CONNECT[:6]
URLS = [
    "postgresql://app:%s@a/shop",
    "postgresql://app:%s@a:5432/shop?sslmode=require",
    "postgresql://a/shop?password=%s",
    "mysql://app:%s@a/shop",
]
# Without a host, a password that holds an @ makes a good URL with half of it as the host: nobody can tell.
URLS_WITHOUT_HOST = ["postgresql://app:%s", "postgres://app:%s/shop"]


urls = st.one_of(
    st.tuples(passwords, st.sampled_from(URLS)),
    st.tuples(passwords.filter(lambda password: "@" not in password), st.sampled_from(URLS_WITHOUT_HOST)),
)


def everything_shown(text: str, env: dict[str, str]) -> str:
    try:
        topology = parse_topology(HEAD + text, file="topology.yaml", env=env)
    except ConfigError as error:
        shown = [str(error), repr(error), repr(error.problems), repr(error.args), *traceback.format_exception(error)]
        # Reporters walk the chain whether or not a traceback shows it.
        assert error.__cause__ is None and error.__context__ is None
        return "\n".join(shown)
    return "\n".join([repr(topology), str(topology), json.dumps(describe(topology))])


def filled(template: str, value: str) -> str:
    return template.replace("%s", value)


@pytest.mark.parametrize("allowed", ["", "plain_passwords: allow\n"])
@settings(max_examples=300)
@given(password=passwords, template=st.sampled_from(CONNECT))
def test_a_quoted_password_is_not_shown(allowed: str, password: str, template: str) -> None:
    text = filled(template, json.dumps(password))
    assert MARK not in everything_shown(text + (allowed if "plain" not in text else ""), {})


@settings(max_examples=500)
@given(password=unquoted, template=st.sampled_from(UNQUOTED))
def test_an_unquoted_password_is_not_shown(password: str, template: str) -> None:
    assert MARK not in everything_shown(filled(template, password), {})


@settings(max_examples=300)
@given(password=passwords, template=st.sampled_from(CONNECT + MISPLACED))
def test_a_password_of_a_variable_is_not_shown(password: str, template: str) -> None:
    assert MARK not in everything_shown(filled(template, '"${SECRET}"'), {"SECRET": password})


@pytest.mark.parametrize("allowed", ["", "plain_passwords: allow\n"])
@settings(max_examples=300)
@given(password_and_url=urls, field=st.sampled_from(["primary: %s", "primary: {dbname: %s}"]))
def test_a_password_in_a_url_is_not_shown(allowed: str, password_and_url: tuple[str, str], field: str) -> None:
    password, url = password_and_url
    whole = json.dumps(filled(url, password))
    assert MARK not in everything_shown(f"shards: {{s0: {{{filled(field, whole)}}}}}\n{allowed}", {})
    part = json.dumps(filled(url, "${SECRET}"))
    assert MARK not in everything_shown(f"shards: {{s0: {{{filled(field, part)}}}}}\n", {"SECRET": password})
    assert MARK not in everything_shown('shards: {s0: {primary: "${URL}"}}\n', {"URL": filled(url, password)})


@settings(max_examples=300)
@given(text=st.text(alphabet="abc:@/?#%&=[]{},!*|>'\"\\-$ \n\t0123é\x00", max_size=60))
def test_any_text_is_a_topology_or_a_config_error(text: str) -> None:
    for file in (text, HEAD + text, f"{HEAD}shards: {text}", f"{HEAD}shards: {{s0: {{primary: {text}}}}}"):
        try:
            parse_topology(file, env={})
        except ConfigError as error:
            assert error.problems


def test_a_password_survives_to_where_it_is_needed() -> None:
    text = HEAD + 'shards: {s0: {primary: {host: a, password: "${SECRET}"}}}'
    password = parse_topology(text, env={"SECRET": "p@ss: #1"}).shard("s0").primary.password
    assert password is not None
    assert password.reveal() == "p@ss: #1"
