"""The compiled library, by ctypes: its structures as native.h declares them, and its functions.

It is no Python module but a plain library with C functions, which the package's build compiles
where there is a C compiler. Without it, and on other processors, torch's operators serve.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
import threading
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

FORMS = {"f32_in_major": 0, "f32_out_major": 1, "bf16": 2, "int8": 3, "int4": 4}
ACTIVATIONS = {
    None: 0,
    "gelu_new": 1,
    "gelu_pytorch_tanh": 1,
    "gelu": 2,
    "relu": 3,
    "silu": 4,
    "swish": 4,
    "tanh": 5,
}
# Up to so many rows are computed in the way of a step, whatever their number: so one token, some
# tokens of a draft and a batch give the same bits. More rows go through bfloat16 products.
FEW_ROWS = 32
_ALIGNMENT = 64


class Layer(ctypes.Structure):
    """``struct linear``."""

    _fields_ = (
        ("form", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Norm(ctypes.Structure):
    """``struct norm``."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class Block(ctypes.Structure):
    """``struct block``."""

    _fields_ = (
        ("ln_1", Norm),
        ("ln_2", Norm),
        ("c_attn", Layer),
        ("attn_c_proj", Layer),
        ("c_fc", Layer),
        ("mlp_c_proj", Layer),
        ("attention_scale", ctypes.c_float),
    )


class Model(ctypes.Structure):
    """``struct model``."""

    _fields_ = (
        ("n_layer", ctypes.c_int64),
        ("n_head", ctypes.c_int64),
        ("n_embd", ctypes.c_int64),
        ("n_inner", ctypes.c_int64),
        ("epsilon", ctypes.c_float),
        ("blocks", ctypes.POINTER(Block)),
        ("ln_f", Norm),
        ("lm_head", Layer),
    )


class Cache(ctypes.Structure):
    """``struct cache``."""

    _fields_ = (("data", ctypes.c_void_p), ("rows", ctypes.c_int64), ("room", ctypes.c_int64))


class Tokens(ctypes.Structure):
    """``struct tokens``."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("row", ctypes.POINTER(ctypes.c_int64)),
        ("position", ctypes.POINTER(ctypes.c_int64)),
        ("first", ctypes.POINTER(ctypes.c_int64)),
    )


def _path() -> Path | None:
    folder = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (path := folder / f"_kernels{suffix}").exists():
            return path
    return None


@cache
def library() -> ctypes.CDLL | None:
    """The library; None where it was not built, the processor cannot run it, or it is unwanted.

    ``LLMCLI_NATIVE=0`` makes it unwanted, ``LLMCLI_NATIVE=avx512`` its use of AMX (some virtual
    machines advertise it and stop who uses it).
    """
    path, wanted = _path(), os.environ.get("LLMCLI_NATIVE")
    if path is None or wanted == "0":
        return None
    loaded = ctypes.CDLL(str(path))
    if not loaded.llmcli_supported():
        return None
    loaded.llmcli_want_matrix_units(wanted != "avx512")
    pointer, int64, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    model, layer = ctypes.POINTER(Model), ctypes.POINTER(Layer)
    loaded.llmcli_takes_many.argtypes = [model]
    loaded.llmcli_step_bytes.argtypes = [model, int64, int64, int64, int64, integer]
    loaded.llmcli_step_bytes.restype = int64
    loaded.llmcli_step.argtypes = [
        model, ctypes.POINTER(Cache), ctypes.POINTER(Tokens), pointer, pointer, int64, int64,
        pointer, integer,
    ]  # fmt: skip
    loaded.llmcli_step.restype = None
    loaded.llmcli_linear_bytes.argtypes = [layer, int64, int64, integer]
    loaded.llmcli_linear_bytes.restype = int64
    loaded.llmcli_linear.argtypes = [layer, pointer, int64, pointer, int64, pointer, integer]
    loaded.llmcli_linear.restype = None
    return loaded


def has_matrix_units() -> bool:
    """Whether the library is there and multiplies bfloat16 on matrix units (AMX)."""
    native = library()
    return native is not None and bool(native.llmcli_has_matrix_units())


def description() -> str:
    """What the library computes with, in words."""
    return f"own kernels for AVX-512{' and AMX' if has_matrix_units() else ''}"


class Workspace(threading.local):
    """Memory that calls work in, kept between them; each thread of Python has its own."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def pointer(self, nbytes: int) -> int:
        """The address of so many bytes, aligned as the library wants them."""
        if len(self._memory) < nbytes + _ALIGNMENT:
            self._memory = torch.empty(nbytes + _ALIGNMENT, dtype=torch.uint8)
        return -(-self._memory.data_ptr() // _ALIGNMENT) * _ALIGNMENT


def address(tensor: Tensor | None) -> int | None:
    """Where a contiguous tensor's data is."""
    return None if tensor is None else tensor.data_ptr()
