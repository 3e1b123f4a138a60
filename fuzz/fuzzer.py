"""The process that fuzzes: ``python fuzz/fuzzer.py TARGET [libFuzzer's options] FOLDERS``.

``run.py`` starts it. What is imported of the package and of its slow twins is instrumented,
so that libFuzzer sees which inputs reach something new. A compiled module shows nothing of
that, but the twin, which goes the same ways, does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import shlex
import sys

import atheris

ROOT = pathlib.Path(__file__).resolve().parents[1]
INSTRUMENTED = ["flask_websockets", "twins", "targets"]


def prefer_sources() -> None:
    """Let the package look for its sources before atheris looks for modules.

    Where compiled modules are beside them, the package finds the sources by an import hook
    of its own, which must come behind that of atheris.
    """
    name = "flask_websockets._build"
    spec = importlib.util.spec_from_file_location(name, ROOT / "flask_websockets/_build.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def main() -> None:
    name = sys.argv.pop(1)
    if os.environ.get("PURE_FLASK_WEBSOCKETS"):
        prefer_sources()
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"targets.{name}")
    # To merge, libFuzzer starts its program again and again, by a shell.
    program = shlex.join([sys.executable, *sys.argv[:1], name])
    atheris.Setup([program, *sys.argv[1:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
