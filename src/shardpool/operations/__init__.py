"""Operations on the fleet as a whole, on top of the shell: edits of the topology. Async only."""

from .edit import Applied, Edit, apply_edit
from .edit_plan import EditPlan as Plan
from .edit_plan import Lost, plan_edit
from .enforce import enforce_owners
from .entries import LookupReport, check_lookups, repair_lookups
from .history import Change, edit_history
from .lookups import create_lookups, drop_lookups
from .occupancy import Occupied, occupied_buckets

__all__ = [
    "Applied",
    "Change",
    "Edit",
    "LookupReport",
    "Lost",
    "Occupied",
    "Plan",
    "apply_edit",
    "check_lookups",
    "create_lookups",
    "drop_lookups",
    "edit_history",
    "enforce_owners",
    "occupied_buckets",
    "plan_edit",
    "repair_lookups",
]
