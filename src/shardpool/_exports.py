"""Names that a package gives out, each imported when it is first used: a command pays for what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, names_by_module: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: {module: its names, with spaces between them}; `Plan=EditPlan` gives another."""
    places = {
        public: (module, own or public)
        for module, names in names_by_module.items()
        for public, _, own in (name.partition("=") for name in names.split())
    }

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, own = places[name]
        value = getattr(import_module(module, package), own)
        setattr(sys.modules[package], name, value)
        return value

    return get


def later(package: str, *modules: str) -> list[Any]:
    """Modules of a package, by their names in it, each imported when the first of its names is used."""
    return [_Later(f"{package}.{module}") for module in modules]


class _Later:
    def __init__(self, module: str) -> None:
        self._module = module
        self._found: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._found is None:
            self._found = import_module(self._module)
        # Kept: Python finds it by itself from now on.
        found = self.__dict__[name] = getattr(self._found, name)
        return found
