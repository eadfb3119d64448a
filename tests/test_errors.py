"""The exception tree drawn in the docstring of llmcli.errors is the real one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

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


def messages() -> Iterator[tuple[str, str]]:
    """Where an error is made, and each of its two sentences, values left out."""
    package = Path(errors.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in errors.__all__:
                place = f"{path.relative_to(package)}:{node.lineno}"
                yield from ((place, text) for text in map(_text, node.args[:2]) if text)


def _text(node: ast.expr) -> str:
    """The literal text of a string, with a mark for each value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (each.value if isinstance(each, ast.Constant) else "\0" for each in node.values)
        return "".join(map(str, parts))
    return ""


def test_errors_are_sentences() -> None:
    """What is wrong ends in a full stop, what to do is a sentence; no capital after a colon."""
    found = list(messages())
    assert len(found) > 300
    for place, text in found:
        assert text.endswith((".", "?", "!", "\0", "'")), (place, text)
        assert not re.search(r": [A-Z][a-z]", text), (place, text)
        assert not re.search(r"\n|  ", text), (place, text)
