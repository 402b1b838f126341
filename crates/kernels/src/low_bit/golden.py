"""Writes golden.txt: digests of dequantised blocks by the `gguf` package (pip install gguf numpy).

Run in this folder: python3 golden.py > golden.txt
"""
import numpy as np
import gguf
from gguf import quants

HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}
NAMES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def noise(length, seed):
    out = bytearray()
    for _ in range(length):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(seed >> 24)
    return out


print("# Digests of 64 blocks, gguf", gguf.__dict__.get("__version__", "package"))
for name in NAMES:
    kind = gguf.GGMLQuantizationType[name]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    data = noise(64 * size, 7)
    for block in range(64):
        for at in HALVES.get(name, (0,)):
            byte = block * size + at + 1
            data[byte] = data[byte] & 0xBF | 0x04
    values = quants.dequantize(np.frombuffer(bytes(data), np.uint8).reshape(64, size), kind).astype("<f4")
    digest = 0xCBF29CE484222325
    for byte in values.tobytes():
        digest = ((digest ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    print(name, f"{digest:016x}")
