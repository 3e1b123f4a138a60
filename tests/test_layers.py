from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

import flask_websockets

PACKAGE = "flask_websockets"
ROOT = Path(flask_websockets.__file__).parent

#: From the top down. A module imports from the lines below its own and, within
#: drivers and protocol, from its own package; modules of one line know nothing
#: of each other.
LAYERS = [
    ["__init__"],
    ["testing"],
    ["extension"],
    ["cli"],
    ["middleware", "tasks"],
    ["handshake"],
    ["dispatch"],
    ["typed"],
    ["context", "handlers", "control", "faults"],
    ["linear"],
    ["patterns"],
    ["connection"],
    ["link"],
    ["rooms", "config", "rate", "errors"],
    ["protocol", "drivers"],
    ["exceptions", "interrupts", "_build"],
]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def layer(module: str) -> str:
    """The name in ``LAYERS`` that *module* stands under."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str) -> t.Iterator[str]:
    """All that *module* imports, at its head, in functions and for type checkers alike."""
    path = MODULES[module]
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                # "from .protocol import frames" imports a module, not only a name.
                name = f"{base}.{alias.name}"
                if base.endswith("._speedups"):
                    continue  # it is no Python, and imports nothing of ours
                yield name if name in MODULES else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "import_module",
            "importlib.import_module",
        ):
            argument = node.args[0]
            assert isinstance(argument, ast.Constant), f"{module} imports what cannot be read here"
            yield argument.value


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == PACKAGE}


def importers(*libraries: str) -> set[str]:
    """The modules that import one of *libraries*."""
    return {
        module
        for module in MODULES
        if any(name.split(".")[0] in libraries for name in imports(module))
    }


def test_every_module_has_its_layer() -> None:
    assert {layer(module) for module in MODULES} == set(LEVELS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    own = layer(module)
    upward = {
        name
        for name in own_imports(module)
        if layer(name) != own and LEVELS[layer(name)] <= LEVELS[own]
    }
    assert upward == set()


def test_imports_name_modules_that_exist() -> None:
    for module in MODULES:
        assert own_imports(module) <= set(MODULES)


def test_no_imports_go_in_a_circle() -> None:
    # A package's __init__ gathers its modules and is imported by none of them.
    graph = {module: own_imports(module) for module in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert sorted(order) == sorted(MODULES)
    assert not any(PACKAGE in imported for imported in graph.values())


def test_gevent_is_imported_by_its_driver_only() -> None:
    expected = {"flask_websockets.drivers.gevent", "flask_websockets.drivers.pywsgi"}
    assert importers("gevent", "geventwebsocket") == expected


def test_msgspec_is_imported_where_types_are_read_only() -> None:
    assert importers("msgspec", "pydantic") == {"flask_websockets.typed", "flask_websockets.faults"}


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) == "protocol"])
def test_the_protocol_imports_the_standard_library_and_itself(module: str) -> None:
    for name in imports(module):
        assert name.split(".")[0] in sys.stdlib_module_names or name.startswith(
            "flask_websockets.protocol"
        )


def test_the_protocol_knows_no_socket_and_no_clock() -> None:
    forbidden = {"asyncio", "select", "selectors", "socket", "ssl", "threading", "time"}
    for module in MODULES:
        if layer(module) == "protocol":
            assert not forbidden & set(imports(module)), module


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) == "drivers"])
def test_the_drivers_know_neither_the_protocol_nor_flask(module: str) -> None:
    assert {layer(name) for name in own_imports(module)} <= {"drivers", "exceptions"}
    assert "flask" not in {name.split(".")[0] for name in imports(module)}


def test_greenlets_are_made_for_tests_only() -> None:
    assert importers("greenlet") == {"flask_websockets.drivers.memory"}


def test_importing_the_package_does_not_import_gevent() -> None:
    names = {"gevent", "geventwebsocket", "greenlet"}
    code = f"import sys, flask_websockets; print({names} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("set()\n", "")


def test_a_server_has_no_command_in_memory() -> None:
    code = (
        "import sys, flask; from flask_websockets import WebSockets; "
        "WebSockets(flask.Flask('app')); "
        "print([name for name in sys.modules if name.startswith(('websocket', "
        "'flask_websockets.cli.', 'flask_websockets.control'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_websocket_client_is_imported_by_commands_only() -> None:
    assert importers("websocket") == {"flask_websockets.cli.client"}


def test_all_names_what_is_exported_and_nothing_else() -> None:
    exported = []
    for node in ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module == "_build":
            continue  # "compiled" is told, as "__version__" is
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                assert alias.asname == alias.name, f"write: {alias.name} as {alias.name}"
                exported.append(alias.name)
    assert sorted(flask_websockets.__all__) == sorted(exported)
    assert len(set(exported)) == len(exported)


def test_what_is_exported_is_there() -> None:
    for name in flask_websockets.__all__:
        assert getattr(flask_websockets, name) is not None
