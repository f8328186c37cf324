"""`up`, `status`, `plan`, `new`, `down` as a person calls them."""

from __future__ import annotations

import pytest

from .conftest import ORDERS, Fleet8

pytestmark = pytest.mark.servers


def test_up_applies_on_every_shard_and_status_says_so(fleet: Fleet8) -> None:
    version = fleet.write("orders", ORDERS)
    assert "pending" in fleet("status", code=3)
    assert "1 applied everywhere" not in fleet("status", code=3)
    printed = fleet("up")
    assert "3 migrations run on 3 shards" in printed
    for shard in fleet.shards:
        assert fleet.applied(shard) == [version]
        assert fleet.ask(shard, "select count(*) from orders") == [(0,)]
    assert "1 applied everywhere, 0 pending, 0 deviating" in fleet("status")
    assert "nothing to do on 3 shards" in fleet("up")
    assert fleet.json("status")["migrations"][0]["shards"] == dict.fromkeys(fleet.shards, "applied")
