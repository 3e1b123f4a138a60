"""What ``setup.cfg`` cannot say: how modules of the package become modules of C.

Without Cython or a C compiler, or with ``PURE_FLASK_WEBSOCKETS`` set, the package is its
Python sources alone, which do the same more slowly.
"""

import os
import runpy
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from setuptools import Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

PACKAGE = "flask_websockets"
BUILD = runpy.run_path(f"{PACKAGE}/_build.py")


def extension(name):
    path = Path(PACKAGE, *name.split("."))
    source = path.with_suffix(".pyx" if path.name == "_speedups" else ".py")
    # -g0: debug information would be most of what is installed.
    return Extension(f"{PACKAGE}.{name}", [str(source)], extra_compile_args=["-O3", "-g0"])


class AllOrNothing(build_ext):
    """The modules know each other's structs, so some without the others are of no use."""

    def run(self):
        try:
            self._translate()
            # One module takes ten seconds, and none waits for another.
            self.parallel = self.parallel or os.cpu_count()
            super().run()
        except Exception as error:  # each tool and version has errors of its own
            self.extensions = []
            reason = str(error).strip().partition("\n")[0]
            print(f"Flask-WebSockets stays pure Python, as it cannot be compiled: {reason}")
        self._remove_old()

    def _translate(self):
        from Cython.Build import cythonize

        translated = cythonize(
            self.extensions,
            build_dir="build/cython",
            quiet=True,
            language_level=3,
            # The .pxd files have the types; annotations are for people and for mypy.
            compiler_directives={"annotation_typing": False},
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]

    def _remove_old(self):
        """Remove what another build left: Python would prefer it to the source."""
        new = {self.get_ext_filename(extension.name) for extension in self.extensions}
        for folder in [self.build_lib] + ["."] * bool(self.inplace):
            for old in Path(folder, PACKAGE).rglob(f"*{EXTENSION_SUFFIXES[0]}"):
                if str(old.relative_to(folder)) not in new:
                    old.unlink()


setup(
    # Without any, the wheel is one for all systems.
    ext_modules=[] if BUILD["pure"] else [extension(name) for name in BUILD["MODULES"]],
    cmdclass={"build_ext": AllOrNothing},
)
