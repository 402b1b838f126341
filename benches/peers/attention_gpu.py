"""Products of matrices and attention on a GPU: Supple beside PyTorch (cuBLAS, FlashAttention, cuDNN), on one card, in one run.

    python3 benches/peers/attention_gpu.py path/to/attention [rounds [gemm] [forward] [backward]]

`attention` is the example of crates/cuda (its head says how to build it). Numbers are 10^12 operations a second of the visible part:
medians of three measurements of at least 20 ms, the best of `rounds` (2) in which the two take turns. Inputs are even noise in -1..1.
"""

import re
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


WAYS = {
    "Library": "Supple, cuBLASLt",
    "Hopper": "Supple, Hopper",
    "TensorCores": "Supple, any GPU",
    "Plain": "Supple, any GPU",
    "Common": "Supple, any GPU",
}


def milliseconds(work):
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def once(repeats):
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / repeats

    repeats = int(min(200, max(1, 20 / max(once(1), 1e-3))))
    return sorted(once(repeats) for _ in range(3))[1]


def noise(*shape, dtype):
    return torch.rand(*shape, device="cuda", dtype=dtype) * 2 - 1


def supple(binary, parts):
    """What our example prints, as {(row, column): speed}."""
    text = subprocess.run([binary, *parts], check=True, capture_output=True, text=True).stdout
    found, kernel = {}, ""
    for line in text.splitlines():
        if match := re.match(r"gemm (\d+)\^3 (\w+) (\w+)( b turned)?: .*, (\d+) TFLOP", line):
            size, dtype, way, turned, speed = match.groups()
            found[f"product {size}^3 {dtype.lower()}{turned or ''}", WAYS[way]] = float(speed)
        elif match := re.match(r"(\d+/\d+ heads of \d+(?:, causal)?):(.*)", line):
            words = match[2].split()
            for length, speed in zip(words[::2], words[1::2]):
                found[f"{kernel} {match[1]} {length}", WAYS[way]] = float(speed)
        elif match := re.match(r"(Hopper|Common)( backward)?$", line):
            kernel, way = (match[2] or "forward").strip(), match[1]
    return found


def pytorch(wanted):
    """The same rows by PyTorch."""
    found = {}
    for row in wanted:
        if match := re.match(r"product (\d+)\^3 (\w+)( b turned)?", row):
            size = int(match[1])
            dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[match[2]]
            a, b, d = (noise(size, size, dtype=dtype) for _ in range(3))
            b = b.t() if match[3] else b
            found[row, "cuBLAS"] = 2 * size**3 / milliseconds(lambda: torch.mm(a, b, out=d)) * 1e-9
            continue
        match = re.match(r"(\w+) (\d+)/(\d+) heads of (\d+)(, causal)? (\d+)", row)
        (heads, kv_heads, d, length), causal = map(int, match.group(2, 3, 4, 6)), bool(match[5])
        pairs = length * (length + 1) / 2 if causal else length * length
        q, *kv = (noise(1, n, length, d, dtype=torch.bfloat16) for n in (heads, kv_heads, kv_heads))
        back = match[1] == "backward"
        leaves = [x.requires_grad_(back) for x in (q, *kv)]
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
            try:
                with sdpa_kernel(backend):
                    forward = lambda: F.scaled_dot_product_attention(*leaves, is_causal=causal, enable_gqa=heads != kv_heads)
                    y = forward()
                    grad = torch.randn_like(y)
                    work = (lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True)) if back else forward
                    found[row, name] = (10 if back else 4) * pairs * heads * d / milliseconds(work) * 1e-9
            except RuntimeError:
                pass  # not for these shapes
    return found


def main():
    best = {}
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 2):
        mine = supple(sys.argv[1], sys.argv[3:] or ["gemm", "forward", "backward"])
        rows = list(dict.fromkeys(row for row, _ in mine))
        for cell, speed in (mine | pytorch(rows)).items():
            best[cell] = max(best.get(cell, 0), speed)
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    for kind in ("product", "forward", "backward"):
        table = {cell: speed for cell, speed in best.items() if cell[0].startswith(kind)}
        columns = list(dict.fromkeys(column for _, column in table))
        print("\n| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for row in dict.fromkeys(row for row, _ in table):
            cells = (f"{table[row, column]:.0f}" if (row, column) in table else "" for column in columns)
            print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
