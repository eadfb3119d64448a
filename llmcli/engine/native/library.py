"""The compiled library, by ctypes: its structures as native.h declares them, and its functions.

It is no Python module but a plain library with C functions, which the package's build compiles
where there is a C compiler. Without it transformers serves.

Levels: the same arithmetic for different processors, from one source. The best that the processor
has is taken, or the one that the environment variable ``LLMCLI_NATIVE`` names.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmcli.errors import InvalidInput

Array = npt.NDArray[Any]
Precision = Literal["float32", "bfloat16", "int8", "int4"]

TYPES: dict[Precision, int] = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
ACTIVATIONS = {
    "none": 0,
    "gelu_tanh": 1,
    "gelu": 2,
    "gelu_quick": 3,
    "relu": 4,
    "relu_squared": 5,
    "silu": 6,
    "tanh": 7,
}
NORMS = {None: 0, "layer": 1, "rms": 2}
# Best first. "amx" adds the matrix units to "avx512", which some virtual machines advertise and
# then stop who uses them.
LEVELS = ("amx", "avx512", "avxvnni", "avx2", "neon", "c")
SWITCH = "LLMCLI_NATIVE"
_ALIGNMENT = 64

_pointer, _int64, _int32, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class Linear(ctypes.Structure):
    """``struct linear``; ``arrays`` keeps what it points at."""

    arrays: tuple[Any, ...]

    _fields_ = (
        ("type", _int32),
        ("unused", _int32),
        ("n", _int64),
        ("k", _int64),
        ("weights", _pointer),
        ("scales", _pointer),
        ("bias", _pointer),
    )


class Norm(ctypes.Structure):
    """``struct norm``."""

    _fields_ = (("kind", _int32), ("epsilon", _float), ("weight", _pointer), ("bias", _pointer))


class Layer(ctypes.Structure):
    """``struct layer``."""

    _fields_ = (
        ("attention_norm", Norm),
        ("mlp_norm", Norm),
        ("attention_post_norm", Norm),
        ("mlp_post_norm", Norm),
        ("query_norm", Norm),
        ("key_norm", Norm),
        ("qkv", Linear),
        ("attention_out", Linear),
        ("up", Linear),
        ("down", Linear),
        ("rotary", _int64),
        ("window", _int64),
        ("scale", _float),
        ("unused", _float),
    )


class Model(ctypes.Structure):
    """``struct model``."""

    _fields_ = (
        ("n_layer", _int64),
        ("width", _int64),
        ("heads", _int64),
        ("kv_heads", _int64),
        ("head_dim", _int64),
        ("inner", _int64),
        ("activation", _int32),
        ("gated", _int32),
        ("parallel", _int32),
        ("shared_norm", _int32),
        ("whole_norm", _int32),
        ("cache_bytes", _int32),
        ("attention_cap", _float),
        ("logit_cap", _float),
        ("alibi", _pointer),
        ("layers", ctypes.POINTER(Layer)),
        ("embedding_norm", Norm),
        ("final_norm", Norm),
        ("head", Linear),
    )


class Rotation(ctypes.Structure):
    """``struct rotation``."""

    _fields_ = (("cosines", _pointer), ("sines", _pointer), ("pairs", _int64))


class Slot(ctypes.Structure):
    """``struct slot``."""

    _fields_ = (("memory", _pointer), ("room", _int64))


class Tokens(ctypes.Structure):
    """``struct tokens``."""

    _fields_ = (
        ("count", _int64),
        ("slot", _pointer),
        ("position", _pointer),
        ("slots", ctypes.POINTER(Slot)),
        ("rotations", ctypes.POINTER(Rotation)),
        ("n_outputs", _int64),
        ("outputs", _pointer),
        ("canonical", _pointer),
    )


# ``struct sampled``.
SAMPLED = np.dtype(
    [
        ("logits", np.int64),
        ("top_p", np.float64),
        ("number", np.float64),
        ("top_k", np.int64),
        ("temperature", np.float32),
        ("min_p", np.float32),
        ("token", np.int64),
        ("logprob", np.float64),
    ]
)


# Where the build puts it.
PATH = Path(__file__).with_name("_kernels.dll" if sys.platform == "win32" else "_kernels.so")


@cache
def _loaded() -> ctypes.CDLL | None:
    try:
        loaded = ctypes.CDLL(str(PATH))
        _declare(loaded)
    except (OSError, AttributeError):  # not built, of another system or of another version
        return None
    return loaded


def _declare(loaded: ctypes.CDLL) -> None:
    model, linear = ctypes.POINTER(Model), ctypes.POINTER(Linear)
    tokens, stats = ctypes.POINTER(Tokens), _pointer
    integer, text = ctypes.c_int, ctypes.c_char_p
    functions: dict[str, tuple[Any, list[Any]]] = {
        "has_level": (integer, [text]),
        "use_level": (integer, [text]),
        "level": (text, []),
        "model_fault": (text, [model]),
        "step_bytes": (_int64, [model, tokens, integer]),
        "step": (None, [model, tokens, _pointer, _pointer, _pointer, _pointer, integer]),
        "linear_bytes": (_int64, [linear, _int64, integer]),
        "linear": (None, [linear, _pointer, _int64, _pointer, _float, _pointer, integer]),
        "score_bytes": (_int64, [linear, _int64, integer]),
        "score": (
            None,
            [linear, _float, _pointer, _int64, _pointer, stats, _pointer, integer],
        ),
        "row_stats": (None, [_pointer, _int64, _int64, _pointer, stats, integer]),
        "tempered": (None, [_pointer, _int64, _int64, _pointer, _pointer, integer]),
        "sample_bytes": (_int64, [_int64, integer]),
        "sample": (None, [_pointer, _int64, _int64, _pointer, integer]),
        "slot_bytes": (_int64, [model, _int64]),
        "slot_new": (_pointer, [_int64]),
        "slot_free": (None, [_pointer, _int64]),
        "slot_copy": (None, [model, _pointer, _int64, _pointer, _int64, _int64]),
        "block_copy": (None, [model, _pointer, _int64, _int64, _pointer, _int64, _int64]),
        "slot_trim": (None, [model, _pointer, _int64, _int64]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(loaded, f"llmcli_{name}")
        function.restype, function.argtypes = result, arguments


@cache
def library() -> ctypes.CDLL | None:
    """The library, set to the best level or to the one asked for; None where there is none.

    ``LLMCLI_NATIVE=0`` asks for none.

    Raises:
        InvalidInput: ``LLMCLI_NATIVE`` names what is no level, or one that this processor lacks.
    """
    wanted = os.environ.get(SWITCH, "").strip().lower()
    if wanted == "0":
        return None
    if wanted and wanted not in LEVELS:
        names = ", ".join(LEVELS)
        raise InvalidInput(f"{SWITCH}={wanted} names no kernels. Use one of {names}, or 0.")
    loaded = _loaded()
    if loaded is None:
        return None
    if wanted and not loaded.llmcli_has_level(wanted.encode()):
        there = ", ".join(levels())
        raise InvalidInput(f"This processor cannot run {SWITCH}={wanted}. It has {there}.")
    loaded.llmcli_use_level((wanted or levels()[0]).encode())
    return loaded


def levels() -> tuple[str, ...]:
    """The levels that this processor has, best first; none without the library."""
    loaded = _loaded()
    if loaded is None:
        return ()
    return tuple(level for level in LEVELS if loaded.llmcli_has_level(level.encode()))


def level() -> str | None:
    """The level in use; None without the library."""
    loaded = library()
    return None if loaded is None else str(loaded.llmcli_level().decode())


def description() -> str:
    """What the library computes with, in words."""
    words = {
        "amx": "AVX-512 and AMX",
        "avx512": "AVX-512",
        "avxvnni": "AVX2 and AVX-VNNI",
        "avx2": "AVX2",
        "neon": "NEON",
        "c": "any processor",
        None: "none",
    }
    return f"own kernels for {words[level()]}"


class Workspace(threading.local):
    """Memory that calls work in, kept between them; each thread of Python has its own."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def pointer(self, nbytes: int) -> int:
        """The address of so many bytes, aligned as the library wants them."""
        if len(self._memory) < nbytes + _ALIGNMENT:
            self._memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
        return -(-self._memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT


def address(array: Array | None) -> int | None:
    """Where a contiguous array's data is.

    Raises:
        ValueError: it is not contiguous.
    """
    if array is None:
        return None
    if not array.flags.c_contiguous:
        raise ValueError("the library takes contiguous arrays only")
    return int(array.ctypes.data)
