"""The advisory locks that shardpool takes on a shard. Pure."""

from __future__ import annotations

LOCK_CLASS = 1936747623
"""The reserved first number of shardpool's two-number advisory locks ("splg" in ASCII). The second is the number of a
move, from 1 on, for its guard; those of everything else are negative."""

ROW_LOCK_CLASS = 1936747625
"""The reserved first number of the locks of transactions that have written what a move moves; the second is its
number."""

INSTALL_LOCK_GROUP = -1
"""The second number of the lock that one `shardpool init` holds against another."""

EDIT_LOCK_GROUP = -2
"""The second number of the session's lock by which an edit of the topology shows that it is alive."""

DRAWING_LOCK_GROUP = -3
"""The second number of the session's lock of the move that draws fences and filters on the shard."""

MOVER_LOCK_GROUP = -1000
"""The second number of the session's lock by which the process that makes a move shows that it is alive, less the
number of the move."""

TRANSACTION_CLASS = 1936749688
"""The reserved first number of the two-number advisory locks on transactions over several shards ("sptx" in ASCII)."""

DECISION_LOCK = 0
"""The second number of the lock that each decides under, shared."""

RECOVERY_LOCK = 1
"""The second number of the lock, on the first shard, of the router that looks after what was left."""
