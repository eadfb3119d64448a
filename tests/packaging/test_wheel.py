"""The source distribution and the wheel for this platform, built with the compiler at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import wheel_contents

ROOT = Path(__file__).resolve().parents[2]
LEFT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__", "docs")


def build(kind: str, source: Path, folder: Path, **environment: str) -> Path:
    """What the build backend makes; no package is fetched for it."""
    code = f"import setuptools.build_meta as b; b.build_{kind}({str(folder)!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env={**os.environ, "PYTHONPATH": "", **environment},
        check=True,
        capture_output=True,
    )
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT)
    (folder / "sdist").mkdir()
    archive = build("sdist", folder / "tree", folder / "sdist")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_the_source_distribution_has_what_its_tests_and_builds_need(source: Path) -> None:
    def files(root: Path) -> set[str]:
        kinds = ("llmcli/**/*", "tests/**/*", "benchmarks/*.py", "tools/*.py", "*")
        found = {path for kind in kinds for path in root.glob(kind) if path.is_file()}
        left = LEFT(str(root), [path.name for path in found])
        return {
            path.relative_to(root).as_posix()
            for path in found
            if path.name not in left and not {"__pycache__"} & set(path.parts)
        }

    assert files(ROOT) <= files(source)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_wheel_serves_every_python_of_its_platform(source: Path, tmp_path: Path) -> None:
    (tmp_path / "wheel").mkdir()
    # What is compiled is the same, only sooner.
    wheel = build("wheel", source, tmp_path / "wheel", CFLAGS="-O0", CC="cc")
    wheel_contents.check(wheel, source)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = "from llmcli.engine.native.library import PATH, levels; print(PATH, *levels())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert Path(found[0]).is_relative_to(tmp_path)
    assert found[-1] == "c"


def test_without_a_compiler_the_wheel_is_for_any_platform(source: Path, tmp_path: Path) -> None:
    weights = source / wheel_contents.WEIGHTS
    weights.rename(tmp_path / weights.name)  # to pack them takes the longest
    (tmp_path / "wheel").mkdir()
    shutil.rmtree(source / "build", ignore_errors=True)
    try:
        wheel = build("wheel", source, tmp_path / "wheel", CC=str(tmp_path / "no-compiler"))
    finally:
        (tmp_path / weights.name).rename(weights)
    assert wheel_contents.platform_of(wheel) == "any"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "_kernels" in name]
