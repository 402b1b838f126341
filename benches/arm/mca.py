#!/usr/bin/env python3
"""Cycles of the sparse tile kernel's inner loops on ARM cores, by LLVM's machine-code analyser: a model, not silicon.

    python3 benches/arm/mca.py [ASSEMBLY]

Compiles supple-kernels for aarch64 (after .ci/setup-cross; or takes the assembly given), cuts the innermost loops out of
`sparse_conv::tile::Multiply` on NEON and of `sparse_conv::half`, which is in half precision, and asks llvm-mca (package
llvm-22 or another version) for the cycles of one turn: one stored column of one block of output channels, for one tile of
pixels. The tile 32x1 is the shape that XNNPACK's kernels for unstructured sparsity have; the others are what packing in
blocks of output channels allows.

Loads are assumed to hit the first-level cache. `stack` counts instructions that access the stack: sums that the compiler
keeps in memory, which a good tile does not.
"""

import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = "aarch64-unknown-linux-gnu"
CORES = ["neoverse-n1", "neoverse-v1", "apple-m1", "cortex-a55"]
# Numbers, lanes of a vector, functions.
KERNELS = [
    ("f32", 4, re.compile(r"^(_R\w*dispatch\w*sparse_conv4tile8Multiply\w*):\n(.*?)^\.Lfunc_end", re.S | re.M)),
    ("f16", 8, re.compile(r"^(_R\w*sparse_conv4half\w*):\n(.*?)^\.Lfunc_end", re.S | re.M)),
]
BRANCH = re.compile(r"\s+(?:b\.\w+|b|cbn?z|tbn?z)\s.*?(\.LBB\w+)$")


def compile_kernels():
    """Compiles the crate and returns the path of its assembly."""
    folder = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "mca")
    command = f"rustup run debian cargo rustc --release --locked -p supple-kernels --lib --target {TARGET} -- --emit asm"
    options = ["-Ccodegen-units=1", "-Cdebuginfo=0", "-Csymbol-mangling-version=v0"]
    environment = dict(os.environ, CARGO_TARGET_DIR=folder)
    subprocess.run(command.split() + options, cwd=ROOT, env=environment, check=True)
    found = glob.glob(os.path.join(folder, TARGET, "release/deps/supple_kernels-*.s"))
    return max(found, key=os.path.getmtime)


def innermost_loops(body):
    """The loops that contain no other: lists of instructions, from a label to the branch back to it."""
    lines = [line for line in body.split("\n") if line.strip() and not re.match(r"\s+(\.|//)", line)]
    place = {}
    for i, line in enumerate(lines):
        label = re.match(r"(\.LBB\w+):", line)
        if label:
            place[label.group(1)] = i
    spans = []
    for i, line in enumerate(lines):
        branch = BRANCH.match(line)
        if branch and place.get(branch.group(1), i) < i:
            spans.append((place[branch.group(1)], i))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    for first, last in inner:
        yield [line for line in lines[first : last + 1] if not line.endswith(":")]


def shape(loop):
    """(vectors of pixels, output channels) of a loop that is a tile: one product for each pair; else None."""
    products = sum(bool(re.match(r"\s+fmla\s", line)) for line in loop)
    # Whole vectors are pixels; weights come as single floats, or as four halves.
    pixels = sum(len(re.findall(r"\bq\d+", line)) for line in loop if re.match(r"\s+ldu?[rp]\s", line))
    if pixels > 1 and products == 8 * (pixels - 1) and ".h[7]" in "".join(loop):
        pixels -= 1  # eight weights in half precision are a whole vector too
    return (pixels, products // pixels) if products and pixels and products % pixels == 0 else None


def cycles(analyser, loop, core):
    """Cycles of one turn, on average over 100."""
    command = [analyser, f"-mtriple={TARGET}", f"-mcpu={core}", "-iterations=100"]
    text = subprocess.run(command, input="\n".join(loop) + "\n", capture_output=True, text=True, check=True).stdout
    return int(re.search(r"Total Cycles: +(\d+)", text).group(1)) / 100


def main():
    versions = sorted(glob.glob("/usr/bin/llvm-mca-*"), key=lambda path: -int(re.sub(r".*-", "", path)))
    analyser = next(iter(versions), shutil.which("llvm-mca"))
    if not analyser:
        sys.exit("llvm-mca is missing: install the package llvm-22")
    path = sys.argv[1] if len(sys.argv) > 1 else compile_kernels()
    with open(path) as file:
        assembly = file.read()
    tiles = {}
    for numbers, lanes, pattern in KERNELS:
        functions = pattern.findall(assembly)
        if not functions:
            sys.exit(f"{path}: no function of the product in {numbers}")
        for _, body in functions:
            for loop in innermost_loops(body):
                stack = sum("[sp" in line for line in loop)
                if shape(loop):
                    pixels, channels = shape(loop)
                    tiles.setdefault((numbers, pixels * lanes, channels, stack), (pixels * channels, loop))
    print(subprocess.run([analyser, "--version"], capture_output=True, text=True).stdout.strip().split("\n")[0].strip())
    print("| numbers | tile (pixels x channels) | fmla | loads | stack | " + " | ".join(CORES) + " |")
    print("|---|---|---|---|---|" + "---|" * len(CORES))
    order = lambda tile: (tile[0][0] == "f16", tile[0][2], tile[0][1], tile[0][3])
    for (numbers, pixels, channels, stack), (products, loop) in sorted(tiles.items(), key=order):
        loads = sum(bool(re.match(r"\s+ld", line)) for line in loop)
        taken = [cycles(analyser, loop, core) for core in CORES]
        cells = [f"{t:.1f} ({products / t:.2f})" for t in taken]
        print(f"| {numbers} | {pixels}x{channels} | {products} | {loads} | {stack} | " + " | ".join(cells) + " |")
    print("Cycles of a turn (vector multiply-adds a cycle).")


if __name__ == "__main__":
    main()
