"""What a wheel must hold, whatever its platform."""

from __future__ import annotations

import re
import zipfile
from email.parser import Parser
from pathlib import Path

# How the library of a platform begins: the system's format, and the processor within it.
_FORMATS = {
    "linux_x86_64": (b"\x7fELF", 18, b"\x3e\x00"),
    "linux_aarch64": (b"\x7fELF", 18, b"\xb7\x00"),
    "macosx_arm64": (b"\xcf\xfa\xed\xfe", 4, b"\x0c\x00\x00\x01"),
    "macosx_x86_64": (b"\xcf\xfa\xed\xfe", 4, b"\x07\x00\x00\x01"),
}
_NEWEST_GLIBC = (2, 17)

WEIGHTS = "llmcli/models/bundled/fable/model.safetensors"


def platform_of(wheel: Path) -> str:
    """The platform in a wheel's name, which names no Python and no ABI."""
    python, abi, platform = wheel.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    return platform


def package_files(source: Path) -> set[str]:
    """The files of the package, the library's sources aside."""
    return {
        path.relative_to(source).as_posix()
        for path in source.glob("llmcli/**/*")
        if path.is_file()
        and path.suffix not in (".c", ".h", ".so", ".dll")
        and path.parent.name != "__pycache__"
    }


def check(wheel: Path, source: Path) -> None:
    """Look that a wheel holds all of the package in `source`, and nothing but that."""
    platform = platform_of(wheel)
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info for info in archive.infolist()}
        info = next(name for name in files if name.endswith(".dist-info/WHEEL"))
        said = Parser().parsestr(archive.read(info).decode())
        assert said["Tag"] == f"py3-none-{platform}"
        assert said["Root-Is-Purelib"] == "false"
        library = f"llmcli/engine/native/_kernels.{'dll' if platform == 'win_amd64' else 'so'}"
        held = {name for name in files if ".dist-info/" not in name}
        assert held == {library, *package_files(source)}
        check_library(archive.read(library), platform)
        weights = files[WEIGHTS]
        assert weights.compress_size < 0.95 * weights.file_size


def check_library(data: bytes, platform: str) -> None:
    """Look that a library is of a platform, and wants nothing newer than the platform has."""
    if platform == "win_amd64":
        header = int.from_bytes(data[0x3C:0x40], "little")
        assert data[:2] == b"MZ"
        assert data[header : header + 6] == b"PE\x00\x00\x64\x86"
        return
    system, machine = re.fullmatch(r"(linux|macosx|manylinux)(?:_\d+_\d+)?_(.+)", platform).groups()  # type: ignore[union-attr]
    magic, at, processor = _FORMATS[f"{system.removeprefix('many')}_{machine}"]
    assert data.startswith(magic)
    assert data[at : at + len(processor)] == processor
    if system == "manylinux":
        wanted = {(int(a), int(b)) for a, b in re.findall(rb"GLIBC_(\d+)\.(\d+)", data)}
        assert wanted
        assert max(wanted) <= _NEWEST_GLIBC
