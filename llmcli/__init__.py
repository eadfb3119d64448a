"""Pretrained language models at the command line, and the Python API under it.

    import llmcli

    model = llmcli.load("fable")
    for piece in model.generate("Once upon a time", max_new_tokens=40, seed=7):
        print(piece, end="", flush=True)

Importing this imports nothing heavy: each name is fetched when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli._version import __version__

__all__ = [
    "LanguageModel",
    "LlmcliError",
    "SamplingParams",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from llmcli.engine.params import SamplingParams
    from llmcli.errors import LlmcliError
    from llmcli.models.language_model import LanguageModel
    from llmcli.models.loader import load
else:
    _HOMES = {
        "LanguageModel": "llmcli.models.language_model",
        "LlmcliError": "llmcli.errors",
        "SamplingParams": "llmcli.engine.params",
        "load": "llmcli.models.loader",
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
