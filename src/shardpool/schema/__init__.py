"""Schema migrations of the whole fleet: see `AsyncMigrations`, which is `router.migrations`."""

from typing import TYPE_CHECKING

from .._exports import exports

if TYPE_CHECKING:
    from ..errors import BadMigration, MigrationError
    from .drift import Drift
    from .files import Folder, Migration, parse, read_folder
    from .locks import Limits
    from .migrations import AsyncMigrations
    from .plan import MigrationPlan as Plan
    from .repair import Repair
    from .report import Happened, ShardReport
    from .report import MigrationReport as Report
    from .rollout import Rollout
    from .status import Status
    from .sync import Migrations

__all__ = [
    "AsyncMigrations",
    "BadMigration",
    "Drift",
    "Folder",
    "Happened",
    "Limits",
    "Migration",
    "Migrations",
    "MigrationError",
    "Plan",
    "Repair",
    "Report",
    "Rollout",
    "ShardReport",
    "Status",
    "parse",
    "read_folder",
]

__getattr__ = exports(
    __name__,
    {
        ".drift": "Drift",
        "..errors": "BadMigration MigrationError",
        ".files": "Folder Migration parse read_folder",
        ".locks": "Limits",
        ".migrations": "AsyncMigrations",
        ".plan": "Plan=MigrationPlan",
        ".repair": "Repair",
        ".report": "Happened Report=MigrationReport ShardReport",
        ".rollout": "Rollout",
        ".status": "Status",
        ".sync": "Migrations",
    },
)
