"""Which triggers are known not to touch a key."""

from __future__ import annotations

import pytest

from shardpool.control.storing import Trigger

TOUCHED = "begin new.updated_at := now(); return new; end"


@pytest.mark.parametrize(
    "body",
    [
        TOUCHED,
        "BEGIN\n  NEW . updated_at = now();\n  IF OLD.* = NEW.* THEN NEW.n := 1; END IF;\n  RETURN NEW;\nEND",
        "begin if tg_op = 'UPDATE' then return old; end if; return null; end",
        "begin new.keys := 1; new.my_key := 2; return\n new ; end",
    ],
)
def test_a_body_that_never_names_the_key_nor_takes_the_row_as_a_whole_keeps_it(body: str) -> None:
    assert not Trigger("t", True, True, "plpgsql", body).may_set(["key"])


@pytest.mark.parametrize(
    "body",
    [
        "begin new.key := 1; return new; end",
        'begin new."key" = 1; return new; end',
        "begin select 1 into NEW.Key; return new; end",
        "begin new := row(1); return new; end",
        "begin select * into new from t; return new; end",
        "begin return jsonb_populate_record(new, '{}'); end",
        "declare r t; begin r := new; return r; end",
        "declare r alias for new; begin return new; end",
        "begin return (select t from t limit 1); end",
        'begin new.U&"\\006bey" := 1; return new; end',
        "begin return (new); end",
        "begin return -- new;\n other; end",
    ],
)
def test_any_other_body_may_change_it(body: str) -> None:
    assert Trigger("t", True, True, "plpgsql", body).may_set(["key"])


def test_a_function_in_another_language_may_change_it_but_for_the_servers_own() -> None:
    assert Trigger("t", True, True, "plpython3u", TOUCHED).may_set(["key"])
    assert Trigger("t", True, True, "c", "moddatetime").may_set(["key"])
    assert not Trigger("t", True, True, "internal", "tsvector_update_trigger_byid").may_set(["key"])
