"""`move`, `rebalance`, `drain`, `split`, `verify`: rows from one shard to another, while they are used."""

from __future__ import annotations
