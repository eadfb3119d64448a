"""The library's tests run with the processor's matrix units and without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmcli.engine.native.library import has_matrix_units, library


@pytest.fixture(scope="module", params=["as there are", "avx512"], autouse=True)
def units(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything holds with matrix units, if the processor has any, and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "avx512":
            if not has_matrix_units():
                pytest.skip("there are no matrix units to do without")
            patch.setenv("LLMCLI_NATIVE", "avx512")
        library.cache_clear()
        assert library() is not None
        assert not (request.param == "avx512" and has_matrix_units())
        yield
    library.cache_clear()
    library()  # with the environment as it was: what it wants of the units is the process's
