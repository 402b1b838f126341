#!/usr/bin/env python3
"""Writes iq_grids.rs (the codebooks of the IQ formats) and iq_golden.bin (random blocks with their values)
beside itself, and quantise_golden.bin (random floats with their blocks).

Needs the PyPI packages gguf and numpy, whose dequantisation is the reference: `pip install gguf numpy; python3 iq_tables.py`.
"""

import pathlib
import numpy as np
from gguf import GGMLQuantizationType as T, quants
from gguf.constants import GGML_QUANT_SIZES

HERE = pathlib.Path(__file__).parent
GRIDS = [
    ("IQ2_XXS", quants.IQ2_XXS, "Eight indices of 2 bits into `IQ2_VALUES`."),
    ("IQ2_XS", quants.IQ2_XS, "As `IQ2_XXS`."),
    ("IQ2_S", quants.IQ2_S, "As `IQ2_XXS`."),
    ("IQ3_XXS", quants.IQ3_XXS, "Four indices of 4 bits (3 in use) into `IQ3_XXS_VALUES`."),
    ("IQ3_S", quants.IQ3_S, "Four indices of 4 bits (3 in use): the values are `2 i + 1`."),
    ("IQ1", quants.IQ1_S, "Eight values of 2 bits, each more by 1 than what it stands for."),
]
# The order of the variants of `Codebook`, with the place of the half-precision scale (None: there is none, or in parts).
FORMATS = [("IQ1_S", 0), ("IQ1_M", None), ("IQ2_XXS", 0), ("IQ2_XS", 0), ("IQ2_S", 0), ("IQ3_XXS", 0), ("IQ3_S", 0),
           ("TQ1_0", 52), ("TQ2_0", 64), ("MXFP4", None), ("NVFP4", None)]
BLOCKS = 3


def grids():
    lines = ["//! Codebooks of the IQ formats, facts of the GGUF format. Written by `iq_tables.py`; do not edit.", ""]
    for name, kind, text in GRIDS:
        words = np.frombuffer(bytes.fromhex(kind.grid_hex.decode()), dtype="<u2")
        assert len(words) == kind.grid_shape[0]
        lines += [f"/// {text}", "#[rustfmt::skip]", f"pub(super) static {name}: [u16; {len(words)}] = ["]
        lines += ["    " + " ".join(f"{word:#06x}," for word in words[at:at + 14]) for at in range(0, len(words), 14)]
        lines += ["];", ""]
    (HERE / "iq_grids.rs").write_text("\n".join(lines[:-1]) + "\n")


def golden():
    random, out = np.random.default_rng(5), b""
    for name, scale in FORMATS:
        kind = T[name]
        elements, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        if scale is not None:  # random bytes would often be infinite
            blocks[:, scale:scale + 2] = random.normal(0, 0.02, (BLOCKS, 1)).astype("<f2").view(np.uint8)
        if name == "IQ1_M":  # its scale is the upper 4 bits of each of the last four words
            blocks[:, -1] = blocks[:, -1] & 0x0F | 0x20
        if name == "MXFP4":
            blocks[:, 0] = [0, 1, 120]
        values = quants.dequantize(blocks, kind).astype("<f4")
        assert values.shape == (BLOCKS, elements) and np.isfinite(values).all()
        out += blocks.tobytes() + values.tobytes()
    (HERE / "iq_golden.bin").write_bytes(out)


def quantised():
    values = np.random.default_rng(6).normal(0, 1, (4, 32)).astype("<f4")
    values[1] *= 1e-6
    values[2] = 0
    values[3] = np.abs(values[3]) * 1000
    out = values.tobytes() + b"".join(quants.quantize(values, T[name]).tobytes() for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"))
    (HERE / "quantise_golden.bin").write_bytes(out)


grids()
golden()
quantised()
