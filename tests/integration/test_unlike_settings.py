"""Shards whose sessions have other settings than one another."""

from __future__ import annotations

import pytest

from shardpool import Router, UnsupportedQuery


@pytest.mark.servers
def test_a_setting_that_differs_from_shard_to_shard_is_refused_by_name_until_it_is_mended(topology_path: str) -> None:
    with Router(topology_path) as router:
        router.execute("insert into orders values (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c'), (4, 1, 'd')")
        database = router.shard("s1").execute("select current_database()").one()[0]
        assert len(router.execute("select note from orders")) == 4
    with Router(topology_path) as router:
        router.shard("s1").execute(f'alter database "{database}" set timezone = "Asia/Kolkata"')
    with Router(topology_path) as router:
        for sql in ("select note from orders", "select note, count(*) from orders group by note"):
            with pytest.raises(UnsupportedQuery, match=r"s1 .*setting TimeZone|setting TimeZone .*Kolkata"):
                router.execute(sql)
        assert len(router.execute("select note from orders where tenant_id = 1")) == 1
        router.shard("s1").execute(f'alter database "{database}" reset timezone')
    with Router(topology_path) as router:
        assert len(router.execute("select note from orders")) == 4
