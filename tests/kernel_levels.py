"""Which levels of kernels the tests ran with: what was skipped here is unproved here.

``LLMCLI_NATIVE`` set for a test run forces a level, as it does for the program; with the variables
of `AVX2` the libraries do without AVX-512, too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import pytest

T = TypeVar("T", str, bytes)

# What makes of any processor one without AVX-512.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "LLMCLI_NATIVE": "0",
}
_PROPERTY = "kernels"


@pytest.fixture
def avx2() -> dict[str, str]:
    """The environment of a process that is to find a processor without bfloat16."""
    return AVX2


def skip_without(precision: str) -> None:
    """Skip the test where a precision is not to be had: transformers has not all of them."""
    from llmcli.engine.native.library import library
    from llmcli.models.weights import unsupported

    if library() is None and (why := unsupported(precision, "cpu")):
        pytest.skip(f"no {precision}: {why}")


def without_notices(stderr: T) -> T:
    """What a command said, but for what it says where transformers computes."""
    notice = "Warning: Continuations are decoded one at a time: several at once are rounded"
    lines = stderr.splitlines(keepends=True)
    if isinstance(stderr, bytes):
        kept: Any = b"".join(x for x in lines if not x.startswith(notice.encode()))
    else:
        kept = "".join(x for x in lines if not str(x).startswith(notice))
    return cast("T", kept)


def _asked() -> object:
    """How often the library was asked for in this process; None if it was not imported."""
    native = sys.modules.get("llmcli.engine.native.library")
    return native and native.library.cache_info()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note what a test computed with in this process, if it asked for the library."""
    before = _asked()
    yield
    if _asked() != before:
        import torch

        from llmcli.engine.native import library as native

        plain = f"torch's operators for {torch.backends.cpu.get_cpu_capability()}"
        used = native.description() if native.library() is not None else plain
        item.user_properties.append((_PROPERTY, used))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests passed with which kernels, and how many were skipped for lack of any."""
    passed = Counter(
        used
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, used in report.user_properties
        if name == _PROPERTY
    )
    terminalreporter.section("kernels")
    for used, count in passed.most_common():
        terminalreporter.line(f"{count:5} passed with {used}")
    if not passed:
        terminalreporter.line("no test computed with any")
