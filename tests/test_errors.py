"""The exception tree drawn in the docstring of llmcli.errors is the real one."""

from __future__ import annotations

import re

import pytest

from llmcli import errors


def drawn() -> dict[str, tuple[str, int | None]]:
    """Read class -> (base, exit code where the line gives one) off the drawing."""
    assert errors.__doc__
    tree: dict[str, tuple[str, int | None]] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+) +(?:exit (\d))?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        tree[match[2]] = (path[depth - 1] if depth else "Exception", _number(match[3]))
    return tree


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def real() -> list[type[errors.LlmcliError]]:
    found: list[type[errors.LlmcliError]] = []
    waiting: list[type[errors.LlmcliError]] = [errors.LlmcliError]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += [sub for sub in each.__subclasses__() if sub.__module__ == errors.__name__]
    return found


def test_the_drawing_is_the_tree() -> None:
    tree = drawn()
    assert set(tree) == {each.__name__ for each in real()} == set(errors.__all__)
    for each in real():
        base, code = tree[each.__name__]
        [real_base] = each.__bases__
        assert real_base.__name__ == base
        assert code in (None, each.exit_code)
        if code is None:
            assert each.exit_code == real_base.exit_code  # type: ignore[attr-defined]


def test_each_says_when_it_is_raised() -> None:
    for each in real()[1:]:
        assert each.__doc__
        assert each.__doc__.startswith("Raised "), each


@pytest.mark.parametrize("cure", ["Do that.", ""])
def test_message_and_cure(cure: str) -> None:
    error = errors.InvalidInput("This is wrong.", cure)
    assert (error.message, error.cure) == ("This is wrong.", cure)
    assert str(error) == f"This is wrong. {cure}".strip()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert errors.is_out_of_memory(error) is expected
