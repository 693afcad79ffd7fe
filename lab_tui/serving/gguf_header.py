"""The header of a GGUF file: what the model is, and how long the file must be.

PyPI ``gguf`` has a reader, but it turns every token of the vocabulary into an array (8 s for a
100 MB model on two cores) and brings numpy along. A list of models, and the check before each
start, need a few fields in milliseconds; so this reads those and steps over the rest. It reads
rather than maps the file: a mapped file that somebody cuts short kills the process that looks at it.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from pathlib import Path

from lab_tui.model import Data

MAGIC = b"GGUF"
FIRST_READ = 4 << 20  # bytes; a header with a large vocabulary is 5 to 20 MB
LONGEST_HEADER = 256 << 20
MOST_ENTRIES = 1 << 24  # more of anything is no model but a damaged header
SHORT_ARRAY = 1024  # numbers; an array of one number a layer is kept, a vocabulary is not
STRING, ARRAY = 8, 9
SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
U32, U64 = SCALARS[4].unpack_from, SCALARS[10].unpack_from

# ggml's types by number: name, values in a block, bytes of a block (ggml.h)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

Value = int | float | bool | str | tuple[int | float | bool, ...]


class Damaged(Exception):
    """The file is not a GGUF that llama.cpp reads; the text says why."""


class Header(Data, frozen=True, kw_only=True):
    """What the header says. Long arrays and those of strings (the vocabulary) are not in ``fields``."""

    fields: dict[str, Value]
    lengths: dict[str, int]  # entries of the arrays that are not in `fields`
    weights: dict[str, dict[str, int]]  # bytes by place ("blk.0", …, "token_embd", "output") and ggml type
    parameters: int  # numbers in all tensors of this file
    tensors: int
    main_type: str  # the ggml type most of the parameters have, "" without tensors
    end: int  # bytes the file has at least, when it is whole


class _Short(Exception):
    """The bytes at hand end inside the header."""


def read_header(path: Path) -> Header:
    """The header of the file at ``path``. Raises Damaged or OSError."""
    with path.open("rb") as file:
        data = file.read(FIRST_READ)
        if not data.startswith(MAGIC):
            raise Damaged(_other_kind(data))
        while True:
            try:
                return _parse(data)
            except (_Short, struct.error, OverflowError):
                more = file.read(3 * len(data)) if len(data) < LONGEST_HEADER else b""
                if not more:
                    raise Damaged("cut short inside its header") from None
                data += more


def _other_kind(data: bytes) -> str:
    """What a file that does not begin like a GGUF seems to be."""
    if data.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the model itself (git lfs pull)"
    if data.lstrip()[:1] == b"<":
        return "a web page, not a GGUF file"
    return "not a GGUF file"


def _parse(data: bytes) -> Header:
    """Read the header at the start of ``data``. Raises _Short, struct.error, Damaged."""
    (version,) = U32(data, 4)
    if version not in (2, 3):
        raise Damaged("a big-endian GGUF" if version & 0xFFFF == 0 else f"GGUF version {version}, not 2 or 3")
    (tensors,), (count,) = U64(data, 8), U64(data, 16)
    at = 24
    fields: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(_sane(count)):
        key, at = _string(data, at)
        (kind,) = U32(data, at)
        value_at = at + 4
        value, at = _value(data, value_at, kind)
        if value is not None:
            fields[key] = value
        else:
            (lengths[key],) = U64(data, value_at + 4)
    by_type: Counter[str] = Counter()
    weights: dict[str, dict[str, int]] = {}
    last = 0
    for _ in range(_sane(tensors)):
        name, kind, numbers, offset, at = _tensor(data, at)
        type_name, block, block_bytes = TYPES.get(kind, (f"type {kind}", 1, 0))
        size = -(-numbers // block) * block_bytes
        by_type[type_name] += numbers
        there = weights.setdefault(_place(name), {})
        there[type_name] = there.get(type_name, 0) + size
        last = max(last, offset + size)
    alignment = fields.get("general.alignment", 32)
    step = alignment if isinstance(alignment, int) and alignment > 0 else 32
    return Header(
        fields=fields,
        lengths=lengths,
        weights=weights,
        parameters=by_type.total(),
        tensors=tensors,
        main_type=by_type.most_common(1)[0][0] if by_type else "",
        end=-(-at // step) * step + last if tensors else at,
    )


def _sane(count: int) -> int:
    if count > MOST_ENTRIES:
        raise Damaged("its header is damaged")
    return count


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = U64(data, at)
    end = at + 8 + length
    if end > len(data):
        raise _Short
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value(data: bytes, at: int, kind: int) -> tuple[Value | None, int]:
    """One value and where it ends; ``None`` for an array that is stepped over."""
    if kind == STRING:
        return _string(data, at)
    if kind == ARRAY:
        return _short_array(data, at), _after_array(data, at)
    if kind not in SCALARS:
        raise Damaged("its header is damaged")
    value: Value = SCALARS[kind].unpack_from(data, at)[0]
    return value, at + SCALARS[kind].size


def _short_array(data: bytes, at: int) -> tuple[int | float | bool, ...] | None:
    """The numbers of the array at ``at``; ``None`` when it is long or not of numbers."""
    (kind,), (count,) = U32(data, at), U64(data, at + 4)
    if kind not in SCALARS or count > SHORT_ARRAY:
        return None
    return struct.unpack_from(f"<{count}{SCALARS[kind].format[1:]}", data, at + 12)


def _after_array(data: bytes, at: int) -> int:
    """Where the array at ``at`` ends."""
    (kind,), (count,) = U32(data, at), U64(data, at + 4)
    at += 12
    if kind in SCALARS:
        return at + _sane(count) * SCALARS[kind].size
    if kind == STRING:
        for _ in range(_sane(count)):
            at += 8 + U64(data, at)[0]
    else:  # arrays of arrays llama.cpp does not read either
        raise Damaged("its header is damaged")
    return at


def _place(name: str) -> str:
    """Where in the model a tensor is: ``blk.3`` of ``blk.3.attn_q.weight``, else its first word."""
    words = name.split(".", 2)
    return ".".join(words[:2]) if words[0] == "blk" else words[0]


def _tensor(data: bytes, at: int) -> tuple[str, int, int, int, int]:
    """Name, type, count of numbers and offset of one tensor, and where its entry ends."""
    name, at = _string(data, at)
    (axes,) = U32(data, at)
    if axes > 8:
        raise Damaged("its header is damaged")
    shape = struct.unpack_from(f"<{axes}Q", data, at + 4)
    at += 4 + 8 * axes
    (kind,), (offset,) = U32(data, at), U64(data, at + 4)
    return name, kind, math.prod(shape), offset, at + 12
