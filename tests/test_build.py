"""What is built, what is installed of it, and which of two twins is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import flask_websockets
from flask_websockets import _build

PACKAGE = Path(flask_websockets.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = {f"flask_websockets.{module}" for module in _build.MODULES}


def run(*command: str | Path, cwd: Path | None = None, **environ: str) -> str:
    """What a program prints, with an environment that does not ask for sources."""
    env = {name: value for name, value in os.environ.items() if name != "PURE_FLASK_WEBSOCKETS"}
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**env, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def imported(place: Path, **environ: str) -> tuple[bool, dict[str, bool]]:
    """``compiled``, and whether each module of :data:`MODULES` that is imported is."""
    code = """if True:
        import json, sys, flask_websockets, flask_websockets.drivers.gevent
        files = {name: module.__file__ for name, module in sys.modules.items()
                 if name.startswith("flask_websockets")}
        print(json.dumps([flask_websockets.compiled, files]))
    """
    output = run(sys.executable, "-c", code, cwd=place, PYTHONPATH=str(place), **environ)
    compiled, files = json.loads(output)
    assert Path(files["flask_websockets"]).parent.parent == place
    return compiled, {
        name: not file.endswith(".py") for name, file in files.items() if name in MODULES
    }


SOURCES = {name: False for name in MODULES if not name.endswith("._speedups")}
COMPILED = dict.fromkeys(MODULES, True)


# Here


def test_a_module_with_types_for_c_is_compiled() -> None:
    files = [*ROOT.glob("flask_websockets/**/*.pxd"), *ROOT.glob("flask_websockets/**/*.pyx")]
    assert MODULES == {
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files
    }  # fmt: skip


def test_compiled_modules_are_imported_where_they_are() -> None:
    compiled, modules = imported(PACKAGE.parent)
    assert modules == (COMPILED if compiled else SOURCES)
    if "TESTS_REQUIRE_ALL" in os.environ and shutil.which("cc"):
        assert compiled


def test_sources_are_imported_if_asked_for() -> None:
    assert imported(PACKAGE.parent, PURE_FLASK_WEBSOCKETS="1") == (False, SOURCES)


def test_what_asks_for_sources_is_no_key_of_an_app() -> None:
    # Flask takes all of FLASK_... from the environment.
    code = """if True:
        import flask, flask_websockets
        app = flask.Flask("app")
        app.config.from_prefixed_env()
        flask_websockets.WebSockets(app)
    """
    run(sys.executable, "-c", code, PYTHONPATH=str(PACKAGE.parent), PURE_FLASK_WEBSOCKETS="1")


def test_this_run_is_as_asked_for() -> None:
    if os.environ.get("PURE_FLASK_WEBSOCKETS"):
        assert not flask_websockets.compiled
    assert flask_websockets.compiled is not sys.modules["flask_websockets.link"].__file__.endswith(
        ".py"
    )


# Built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built, with what other builds leave there."""
    if "TESTS_REQUIRE_ALL" not in os.environ:
        for module, version in (("build", "1.2"), ("Cython", "3.1"), ("setuptools", "70.1")):
            pytest.importorskip(module, minversion=version)
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "flask_websockets", source / "flask_websockets")
    for name in (
        "LICENSE", "MANIFEST.in", "README.rst", "pyproject.toml", "pytest_flask_websockets.py",
        "setup.cfg", "setup.py"
    ):  # fmt: skip
        shutil.copy(ROOT / name, source)
    (source / "flask_websockets/rooms.c").touch()
    (source / "flask_websockets/rooms.so").touch()
    return source


def build(source: Path, to: Path, *options: str, **environ: str) -> str:
    # Nothing is fetched: what builds is what is installed here.
    command = [sys.executable, "-m", "build", "-n", "-x", *options, "-o", to, source]
    return run(*command, cwd=to, **environ)


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with an sdist and the wheel that is built of it."""
    if not shutil.which("cc"):
        if "TESTS_REQUIRE_ALL" in os.environ:
            pytest.fail("a C compiler is not installed")
        pytest.skip("a C compiler is not installed")
    folder = tmp_path_factory.mktemp("built")
    # What is built here need not be quick, but the building.
    compiler = folder / "compiler"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    compiler.chmod(0o755)
    build(source, folder, CC=str(compiler))
    return folder


@pytest.fixture
def sdist(source: Path, tmp_path: Path) -> Path:
    """An sdist, unpacked."""
    build(source, tmp_path, "--sdist")
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path)
    return next(path for path in tmp_path.iterdir() if path.is_dir())


def unpack_wheel(folder: Path, to: Path) -> set[str]:
    """Unpack the one wheel in *folder*, and return the names of the package's files in it."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
        return {name for name in archive.namelist() if name.startswith("flask_websockets/")}


def sources(*suffixes: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for suffix in suffixes
        for path in ROOT.glob(f"flask_websockets/**/*{suffix}")
    }


def test_the_sdist_has_the_sources_and_nothing_that_is_built(sdist: Path) -> None:
    names = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("flask_websockets/")} == sources(
        ".py", ".pyi", ".pxd", ".pyx", "py.typed"
    )
    assert {"LICENSE", "README.rst", "pytest_flask_websockets.py", "setup.py"} <= names


def test_the_wheel_is_compiled(built: Path, tmp_path: Path) -> None:
    names = unpack_wheel(built, tmp_path)
    modules = {name.partition(".")[0] for name in names if name.endswith(".so")}
    assert modules == {name.replace(".", "/") for name in MODULES}
    assert {name for name in names if not name.endswith(".so")} == sources(
        ".py", ".pyi", "py.typed"
    )
    assert imported(tmp_path) == (True, COMPILED)
    assert imported(tmp_path, PURE_FLASK_WEBSOCKETS="1") == (False, SOURCES)
    # Modules know each other's structs: a part of them would not go together.
    next(tmp_path.glob("flask_websockets/link.*.so")).unlink()
    assert imported(tmp_path) == (False, SOURCES)


@pytest.mark.parametrize("missing", ["compiler", "Cython", "Python.h"])
def test_what_cannot_be_compiled_is_built_of_sources(
    sdist: Path, tmp_path: Path, missing: str
) -> None:
    environ = {"CC": "/nonexistent/cc"}
    if missing == "Cython":
        (tmp_path / "Cython.py").write_text("raise ImportError('No module named Cython')")
        environ = {"PYTHONPATH": str(tmp_path)}
    elif missing == "Python.h":
        compiler = tmp_path / "compiler"
        compiler.write_text("#!/bin/sh\necho Python.h: No such file or directory\nexit 1\n")
        compiler.chmod(0o755)
        environ = {"CC": str(compiler)}
    output = build(sdist, tmp_path, "--wheel", **environ)
    assert output.count("Flask-WebSockets stays pure Python") == 1
    names = unpack_wheel(tmp_path, tmp_path / "installed")
    assert names == sources(".py", ".pyi", "py.typed")
    assert imported(tmp_path / "installed") == (False, SOURCES)


def test_sources_are_built_if_asked_for(sdist: Path, tmp_path: Path) -> None:
    build(sdist, tmp_path, "--wheel", PURE_FLASK_WEBSOCKETS="1")
    assert unpack_wheel(tmp_path, tmp_path) == sources(".py", ".pyi", "py.typed")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    # The pytest plugin is beside the package.
    assert (tmp_path / "pytest_flask_websockets.py").exists()
    (points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    assert points.read_text().split() == [
        "[pytest11]", "pytest_flask_websockets", "=", "pytest_flask_websockets"
    ]  # fmt: skip
