"""Builds the C library of the decoder; everything else is said in pyproject.toml.

The library uses nothing of Python's, so it has a plain name, and one wheel serves every Python on
its platform: ``py3-none-PLATFORM``. It is optional: where no compiler is found, transformers
decodes, and the wheel is ``py3-none-any``.

``CC`` names the compiler, with arguments if need be: GCC, clang or ``zig cc``, else what is found.
What ``CFLAGS`` says comes last. ``--plat-name`` of bdist_wheel says for which platform ``CC``
compiles, if not for this one; see tools/wheels.py.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

NATIVE = Path("llmcli", "engine", "native")
LIBRARY = "llmcli.engine.native._kernels"

# Nothing may be contracted: every level rounds where the source says, so that all give the same
# bits.
FLAGS = [
    "-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC", "-g0",
    "-Wall", "-Wextra", "-Wno-psabi",
]  # fmt: skip


class build_library(build_ext):
    """Compiles the sources at the same time, and links them to a plain library."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the library is found, from the root of the packages."""
        platform_name = self.get_finalized_command("bdist_wheel").plat_name
        suffix = ".dll" if platform_name.startswith("win") else ".so"
        return os.path.join(*fullname.split(".")) + suffix

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        library = Path(self.get_ext_fullpath(ext.name))
        if not self.force and not newer_group([*ext.sources, *ext.depends], library):
            return
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = [*FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]

        def compiled(source: str) -> str:
            made = str(objects / f"{Path(source).stem}.o")
            run([*compiler(), *flags, "-c", source, "-o", made])
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = list(pool.map(compiled, ext.sources))
        # Linkers leave other files beside it, which nobody needs.
        linked = objects / library.name
        run([*compiler(), "-shared", *made, "-o", str(linked), "-lm", "-lpthread"])
        shutil.copy(linked, library)


class wheel_of_platform(bdist_wheel):
    """Names the wheel for the platform alone, or for any, where the library was not built."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tags in the wheel's name."""
        build = self.get_finalized_command("build_ext")
        if not Path(build.get_ext_fullpath(LIBRARY)).exists():
            return "py3", "none", "any"
        _, _, tag = super().get_tag()
        # A Python for both of Apple's processors compiles for the one that runs it.
        return "py3", "none", tag.replace("universal2", platform.machine())


def compiler() -> list[str]:
    """The compiler to call.

    Raises:
        CompileError: there is none.
    """
    if named := shlex.split(os.environ.get("CC", "")):
        return named
    found = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if found is None:
        raise CompileError("there is no C compiler: install GCC or clang, or name one in CC")
    return [found]


def run(command: list[str]) -> None:
    """Run a compiler.

    Raises:
        CompileError: it fails, or cannot be run.
    """
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise CompileError(str(exc)) from exc


def paths(pattern: str) -> list[str]:
    """The library's files of a kind."""
    return sorted(path.as_posix() for path in NATIVE.glob(pattern))


setup(
    ext_modules=[
        Extension(LIBRARY, sources=paths("*.c"), depends=paths("*.h"), optional=True),
    ],
    cmdclass={"build_ext": build_library, "bdist_wheel": wheel_of_platform},
)
