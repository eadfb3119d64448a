"""Weights in the order in which the kernels read them: panels of 16 outputs, see native.h.

The bytes are the same for every level and every processor of little-endian order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from llmcli.engine.native.library import TYPES, Array, Linear, Precision, address

_LANES = 16
_INT4_GROUP = 32
# A multiple of the lanes: what is computed on the way stays small beside a model's head.
_ROWS_AT_ONCE = 2048
# Beyond this a weight does not fit into the float16 that int4's scales are kept in.
_LARGEST_SCALE = 6e4
# Inputs are padded to the first number; so many stand together in a lane; so many are in a byte,
# or in a value.
_SHAPES: dict[Precision, tuple[int, int, int]] = {
    "float32": (1, 1, 1),
    "bfloat16": (32, 2, 1),
    "int8": (64, 4, 1),
    "int4": (_INT4_GROUP, 4, 2),
}
_DTYPES: dict[Precision, str] = {
    "float32": "float32",
    "bfloat16": "uint16",
    "int8": "int8",
    "int4": "uint8",
}

Packed = Mapping[str, Array]


def pack(weight: npt.NDArray[np.float32], precision: Precision) -> dict[str, Array]:
    """Turn float32 weights [out, in] into panels.

    int8: symmetric, a scale for each output. int4: a scale and an offset for each group of 32
    inputs of an output, in float16; a group beyond float16's range makes it int8.

    Returns:
        ``panels`` (whose type tells the precision), ``scales`` of integers, and ``size``, [2]:
        outputs and inputs without padding.
    """
    made: list[dict[str, Array]] = []
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = np.ascontiguousarray(weight[start : start + _ROWS_AT_ONCE], np.float32)
        packed = _pack_rows(rows, precision)
        if packed is None:
            return pack(weight, "int8")
        made.append(packed)
    joined = {name: np.concatenate([each[name] for each in made]) for name in made[0]}
    return {**joined, "size": np.array(weight.shape, np.int64)}


def _pack_rows(weight: Array, precision: Precision) -> dict[str, Array] | None:
    """Pack some outputs; None where int4's scales do not fit float16."""
    if precision == "float32":
        return {"panels": _panels(_pad(weight, 1), 1)}
    if precision == "bfloat16":
        return {"panels": _panels(_pad(bfloat16(weight), 32), 2)}
    if precision == "int4":
        return _int4(_pad(weight, _INT4_GROUP))
    scale = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-12)) / np.float32(127)
    values = np.rint(weight / scale[:, None])
    np.clip(values, -127, 127, out=values)
    padded = _pad(values.astype(np.int8), 64)
    return {"panels": _panels(padded, 4), "scales": np.pad(scale, (0, -len(scale) % _LANES))}


def bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper halves of floats, rounded to the nearest, to even at a tie; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = 0x7FC0
    return rounded


def _int4(padded: Array) -> dict[str, Array] | None:
    rows, width = padded.shape
    groups = padded.reshape(rows, width // _INT4_GROUP, _INT4_GROUP)
    low, high = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    scale = np.maximum((high - low) / np.float32(15), np.float32(1e-7))
    if not max(float(scale.max()), float(np.abs(low).max())) < _LARGEST_SCALE:
        return None
    # Rounded as they will be read, so that the nearest level is the nearest one there is.
    scale, low = scale.astype(np.float16), low.astype(np.float16)
    values = np.rint((groups - low.astype(np.float32)) / scale.astype(np.float32))
    levels = np.clip(values, 0, 15).astype(np.uint8)
    halves = levels.reshape(rows, width // 8, 2, 4)
    both = halves[:, :, 0] | (halves[:, :, 1] << 4)
    scales = np.concatenate([scale, low], axis=2)
    return {
        "panels": _panels(both.reshape(rows, width // 2), 4),
        "scales": np.ascontiguousarray(
            scales.reshape(rows // _LANES, _LANES, -1, 2).transpose(0, 2, 3, 1)
        ),
    }


def _pad(values: Array, inputs: int) -> Array:
    rows, width = values.shape
    more = ((0, -rows % _LANES), (0, -width % inputs))
    return np.pad(values, more) if any(after for _, after in more) else values


def _panels(values: Array, together: int) -> Array:
    """[out, in] to [out / 16, in / together, 16, together]."""
    rows, width = values.shape
    # The inputs of a lane move as one number.
    whole = np.dtype(f"u{values.itemsize * together}")
    parts = np.ascontiguousarray(values).view(whole).reshape(rows // _LANES, _LANES, -1)
    turned = np.ascontiguousarray(parts.transpose(0, 2, 1))
    return turned.view(values.dtype).reshape(rows // _LANES, width // together, _LANES, together)


def precision_of(packed: Packed) -> Precision:
    """Which precision packed weights have.

    Raises:
        ValueError: none.
    """
    name = packed["panels"].dtype.name
    for precision, dtype in _DTYPES.items():
        if dtype == name:
            return precision
    raise ValueError(f"panels of {name}")


def check(packed: Packed) -> None:
    """Raise ValueError unless panels and scales have the sizes that ``size`` asks for.

    The library reads as much as ``size`` says, whatever there is.
    """
    if packed["size"].shape != (2,):
        raise ValueError("panels without a size")
    rows, width = (int(value) for value in packed["size"])
    panels, precision = packed["panels"], precision_of(packed)
    inputs, together, of = _SHAPES[precision]
    blocks, padded = -(-rows // _LANES), -(-width // inputs) * inputs
    expected = (blocks, padded // (together * of), _LANES, together)
    if rows < 1 or width < 1 or panels.shape != expected:
        raise ValueError(f"panels of {panels.shape} do not hold [{rows}, {width}]")
    wanted: dict[Precision, tuple[str, tuple[int, ...]]] = {
        "int8": ("float32", (blocks * _LANES,)),
        "int4": ("float16", (blocks, padded // _INT4_GROUP, 2, _LANES)),
    }
    if precision in wanted:
        dtype, shape = wanted[precision]
        scales = packed.get("scales")
        if scales is None or scales.dtype.name != dtype or scales.shape != shape:
            raise ValueError(f"the scales do not fit [{rows}, {width}]")


def linear(packed: Packed, bias: Array | None = None) -> Linear:
    """Describe packed weights to the library.

    A copy of what is returned, as within another structure, does not keep the arrays alive.

    Args:
        packed: What :func:`pack` returned, or what a file holds of it.
        bias: float32 [out], or None.

    Raises:
        ValueError: the sizes are not what they should be.
    """
    check(packed)
    rows, width = (int(value) for value in packed["size"])
    if bias is not None and (bias.dtype != np.float32 or bias.shape != (rows,)):
        raise ValueError(f"a bias of {bias.dtype} {bias.shape} does not fit {rows} outputs")
    made = Linear(
        type=TYPES[precision_of(packed)],
        n=rows,
        k=width,
        weights=address(packed["panels"]),
        scales=address(packed.get("scales")),
        bias=address(bias),
    )
    made.arrays = packed, bias
    return made


def gated(gate: Array, up: Array) -> Array:
    """Both layers of a gated network as one, to be packed: 16 of the one, 16 of the other.

    Args:
        gate: Weights [inner, in], or a bias [inner].
        up: The same.

    Returns:
        [2 * inner padded to 16, in], or [2 * inner padded to 16].
    """
    more = ((0, -len(gate) % _LANES), *((0, 0) for _ in gate.shape[1:]))
    parts = [np.pad(each, more).reshape(-1, _LANES, *each.shape[1:]) for each in (gate, up)]
    return np.stack(parts, axis=1).reshape(-1, *gate.shape[1:])


def rows_of(packed: Packed, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Some outputs' weights as float32 [len(rows), in]: a tied embedding's rows."""
    _, width = (int(value) for value in packed["size"])
    precision = precision_of(packed)
    block, lane = np.divmod(np.asarray(rows, np.int64), _LANES)
    values = packed["panels"][block, :, lane, :].reshape(len(block), -1)
    if precision == "float32":
        return np.ascontiguousarray(values, np.float32)
    if precision == "bfloat16":
        bits = values.astype(np.uint32) << 16
        return np.ascontiguousarray(bits.view(np.float32)[:, :width])
    if precision == "int8":
        scaled = values.astype(np.float32) * packed["scales"][rows, None]
        return np.ascontiguousarray(scaled[:, :width], np.float32)
    fours = values.reshape(len(block), -1, 4)
    levels = np.stack([fours & 15, fours >> 4], axis=2).reshape(len(block), -1, _INT4_GROUP)
    scales = packed["scales"][block, :, :, lane].astype(np.float32)
    exact = levels.astype(np.float32) * scales[:, :, 0, None] + scales[:, :, 1, None]
    return np.ascontiguousarray(exact.reshape(len(block), -1)[:, :width])
