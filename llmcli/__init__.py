"""Pretrained language models at the command line, and the Python API under it."""

from __future__ import annotations

from llmcli._version import __version__

__all__ = ["__version__"]
