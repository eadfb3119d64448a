"""The wheels in dist/, as `make wheel` runs this after it has built them.

What they hold is looked at for every platform. The kernels of those that this machine can run, be
it under an emulator, must give the bits of the kernels that are in use here.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
import wheel_contents
from kernel_check import compiled, numbers
from native_models import LEVELS
from wheels import PLATFORMS, compiler

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
# Where Debian's libc6-arm64-cross and the like put the libraries of another processor.
EMULATORS = {
    "manylinux_2_17_x86_64": [],
    "manylinux_2_17_aarch64": ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
    "win_amd64": ["wine64"],  # Debian has it in /usr/lib/wine
}


def wheel_for(platform: str) -> Path:
    """The newest wheel for a platform; without one the test is skipped."""
    found = sorted(DIST.glob(f"*-{platform}.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        pytest.skip(f"there is no wheel for {platform} in {DIST}")
    return found[-1]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_wheel_holds_the_package_and_the_library_of_its_platform(platform: str) -> None:
    wheel_contents.check(wheel_for(platform), ROOT)


@pytest.mark.skipif(not LEVELS, reason="the library was not built")
@pytest.mark.parametrize("platform", EMULATORS)
def test_its_kernels_give_the_same_bits_as_those_here(platform: str, tmp_path: Path) -> None:
    wheel, emulator = wheel_for(platform), EMULATORS[platform]
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"there is no {emulator[0]}")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if "/_kernels." in name)
        library = tmp_path / Path(name).name
        library.write_bytes(archive.read(name))
    program = compiled(tmp_path, compiler(platform), library, "-Wl,-rpath,$ORIGIN")
    there = numbers([*emulator, str(program)])
    if "aarch64" in platform:
        assert set(there) == {"c", "neon"}
    else:  # tiles are for Linux alone
        assert set(there) == set(LEVELS) - ({"amx"} if platform == "win_amd64" else set())
    (here,) = set(numbers([str(compiled_here(tmp_path))]).values())
    assert set(there.values()) == {here}


def compiled_here(folder: Path) -> Path:
    """The check of the library in use."""
    from llmcli.engine.native.library import PATH

    (folder / "here").mkdir()
    return compiled(folder / "here", ["cc"], PATH, f"-Wl,-rpath,{PATH.parent}")
