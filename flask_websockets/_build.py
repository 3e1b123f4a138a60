"""Which twin of a module is imported: the compiled one, or its source.

Knows the names of the modules that ``setup.py`` compiles, and nothing that is in them.
It is imported before any of them.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import typing as t
from importlib.util import spec_from_file_location
from pathlib import Path

#: A module of C beside its source has its name, and Python prefers it. ``_speedups`` has
#: no source in Python: its neighbours do without.
MODULES: t.Final = (
    "protocol._speedups",
    "protocol.frames",
    "protocol.connection",
    "drivers._speedups",
    "drivers.base",
    "drivers.gevent",
    "link",
    "connection",
    "context",
    "handlers",
    "dispatch",
)


class Sources:
    """Finds what Python would find, and of what is compiled the source.

    An entry of :data:`sys.meta_path`, which stays there, as ``drivers/gevent`` is
    imported later than the others.
    """

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, name: str, path: t.Sequence[str] | None, target: t.Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(self._prefix):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            return spec
        source = Path(spec.loader.path).with_name(name.rpartition(".")[2] + ".py")
        if not source.exists():
            raise ModuleNotFoundError(f"{name} exists only compiled", name=name)
        return spec_from_file_location(name, source)


def _is_compiled(module: str) -> bool:
    path = Path(__file__).parent.joinpath(*module.split("."))
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    return any(path.with_name(path.name + suffix).exists() for suffix in suffixes)


#: Whether sources are asked for, when the package is built and when it is imported.
pure = bool(os.environ.get("PURE_FLASK_WEBSOCKETS"))

_found = [_is_compiled(module) for module in MODULES]

#: Whether the compiled modules are in use. They know each other's structs, so it is all of
#: them or none.
compiled: bool = all(_found) and not pure
if any(_found) and not compiled:
    sys.meta_path.insert(0, Sources(__name__.rpartition(".")[0]))
