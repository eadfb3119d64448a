"""The names that llmcli promises, and what the Python API does with them."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmcli
from llmcli.errors import InvalidInput, ModelNotFound


def test_the_names() -> None:
    assert llmcli.__all__ == sorted(llmcli.__all__)
    for name in llmcli.__all__:
        assert getattr(llmcli, name) is not None
    assert set(llmcli.__all__) <= set(dir(llmcli))
    namespace: dict[str, object] = {}
    exec("from llmcli import *", namespace)  # noqa: S102
    assert set(llmcli.__all__) <= {*namespace, "__version__"}


def test_public_names_have_docstrings() -> None:
    for name in llmcli.__all__:
        if name != "__version__":
            assert getattr(llmcli, name).__doc__, name


def test_a_misspelt_name() -> None:
    """mypy sees it, too: it would call the comment unused if it did not."""
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        llmcli.laod  # type: ignore[attr-defined]  # noqa: B018


def test_generate_from_python(tiny_gpt2: Path) -> None:
    model = llmcli.load(str(tiny_gpt2))
    pieces = list(model.generate("Once upon a time", max_new_tokens=8, seed=1))
    assert pieces
    assert all(pieces)
    assert "".join(pieces) == "".join(model.generate("Once upon a time", max_new_tokens=8, seed=1))


def test_mistakes_are_raised_at_the_call(tiny_gpt2: Path) -> None:
    """Not when the first piece is asked for."""
    model = llmcli.load(str(tiny_gpt2))
    with pytest.raises(InvalidInput, match="temperature"):
        model.generate("x", temperature=-1)
    with pytest.raises(InvalidInput, match="There is no setting 'temprature'"):
        model.generate("x", temprature=1)
    with pytest.raises(InvalidInput, match="The prompt is empty"):
        model.generate("")
    with pytest.raises(InvalidInput, match="precision"):
        llmcli.load(str(tiny_gpt2), precision="float16")
    with pytest.raises(InvalidInput, match="device"):
        llmcli.load(str(tiny_gpt2), device="tpu")
    with pytest.raises(ModelNotFound):
        llmcli.load(str(tiny_gpt2 / "nothing"))
