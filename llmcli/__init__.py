"""Pretrained language models at the command line, and the Python API under it.

    import llmcli

    model = llmcli.load("fable")
    for piece in model.stream("Once upon a time", max_new_tokens=40, seed=7):
        print(piece, end="", flush=True)

Importing this imports nothing heavy: each name is fetched when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli._version import __version__

__all__ = [
    "LanguageModel",
    "LlmcliError",
    "LoadOptions",
    "SamplingParams",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from llmcli.api import LanguageModel, load
    from llmcli.engine.params import SamplingParams
    from llmcli.errors import LlmcliError
    from llmcli.models.options import LoadOptions
else:
    _HOMES = {
        "LanguageModel": "llmcli.api",
        "LlmcliError": "llmcli.errors",
        "LoadOptions": "llmcli.models.options",
        "SamplingParams": "llmcli.engine.params",
        "load": "llmcli.api",
    }

    def __getattr__(name: str) -> object:
        """Import what is asked for (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
