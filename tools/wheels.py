"""Builds wheels for other platforms than this one: the C library is compiled by zig.

    python tools/wheels.py [-o FOLDER] [PLATFORM ...]

Everything is made from the source distribution, which is made first, so that nothing in a wheel
comes from anywhere else. Needs the packages of the dependency group ``wheel``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The platform of a wheel's name, and zig's name for it.
PLATFORMS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
}


def compiler(platform: str) -> list[str]:
    """The command that compiles C for a platform."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", PLATFORMS[platform]]


def sdist(folder: Path) -> Path:
    """Build the source distribution."""
    _build("--sdist", "--outdir", str(folder), str(ROOT))
    return _newest(folder, "*.tar.gz")


def wheel(source: Path, platform: str, folder: Path) -> Path:
    """Build a platform's wheel from a source distribution."""
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(source) as archive:
            archive.extractall(temporary, filter="data")
        (unpacked,) = Path(temporary).iterdir()
        _build(
            "--wheel",
            f"--config-setting=--build-option=--plat-name={platform}",
            "--outdir",
            str(folder),
            str(unpacked),
            CC=shlex.join(compiler(platform)),
        )
    return _newest(folder, f"*-{platform}.whl")


def _build(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    # Where the compiler fails the build goes on without the library; here that is an error.
    if done.returncode or "building extension" in done.stderr + done.stdout:
        sys.exit(f"{done.stdout}{done.stderr}Error: {shlex.join(command)} failed.")


def _newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def main() -> None:
    """Build the source distribution and the wheels that the command line names."""
    parser = argparse.ArgumentParser(description="Build wheels, the C library compiled by zig.")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=", ".join(PLATFORMS))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    asked = parser.parse_args()
    if unknown := set(asked.platforms) - set(PLATFORMS):
        parser.error(f"no such platform: {', '.join(unknown)}; there are {', '.join(PLATFORMS)}")
    source = sdist(asked.output)
    print(source, flush=True)
    for platform in asked.platforms or PLATFORMS:
        print(wheel(source, platform, asked.output), flush=True)


if __name__ == "__main__":
    main()
