"""Training RLFN or DITN on a GPU: Supple beside PyTorch's modes, on the same card, in one run.

    python3 benches/peers/train_gpu.py path/to/supple --scale 2 --batch 64 --patch 128
    python3 benches/peers/train_gpu.py path/to/supple --network ditn_tiny --scale 4 --batch 16 --patch 256

A step is forward, L1, backward, clipping to norm 1, Adam and a moving average of the weights, on samples that lie on the GPU for
PyTorch; Supple's own times include the way there. PyTorch is channels-last with autocast and the fused Adam, eager, compiled, and
each captured whole as a CUDA graph. Times are medians over steps after a warm-up; `--seconds` bounds what a mode of
PyTorch may take to compile, by leaving out those that would begin later.
"""

import argparse
import json
import subprocess
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, c, f=16):
        super().__init__()
        self.conv1, self.conv_f = nn.Conv2d(c, f, 1), nn.Conv2d(f, f, 1)
        self.conv2, self.conv3 = nn.Conv2d(f, f, 3, stride=2), nn.Conv2d(f, f, 3, padding=1)
        self.conv4 = nn.Conv2d(f, c, 1)

    def forward(self, x):
        r = self.conv1(x)
        c = self.conv3(F.max_pool2d(self.conv2(r), 7, 3))
        c = F.interpolate(c, x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(c + self.conv_f(r)))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c1, self.c2, self.c3 = (nn.Conv2d(c, c, 3, padding=1) for _ in range(3))
        self.c5, self.attention = nn.Conv2d(c, c, 1), Attention(c)

    def forward(self, x):
        o = x
        for conv in (self.c1, self.c2, self.c3):
            o = F.leaky_relu(conv(o), 0.05)
        return self.attention(self.c5(o + x))


class Rlfn(nn.Module):
    """RLFN_S as its paper defines it."""

    def __init__(self, scale, c=48, blocks=6):
        super().__init__()
        self.head, self.body = nn.Conv2d(3, c, 3, padding=1), nn.Sequential(*(Block(c) for _ in range(blocks)))
        self.after, self.tail = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, 3 * scale * scale, 3, padding=1)
        self.scale = scale

    def forward(self, x):
        head = self.head(x)
        return F.pixel_shuffle(self.tail(self.after(self.body(head)) + head), self.scale)


class LayerNorm(nn.Module):
    """Over channels."""

    def __init__(self, c):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x):
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, last.shape[3:], self.weight, self.bias).permute(0, 3, 1, 2)


class Tangent(nn.Module):
    """What takes its place."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 1)

    def forward(self, x):
        return self.conv(torch.tanh(x))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.first, self.last = nn.Conv2d(c, 4 * c, 1, bias=False), nn.Conv2d(2 * c, c, 1, bias=False)
        self.depthwise = nn.Conv2d(4 * c, 4 * c, 3, padding=1, groups=4 * c, bias=False)

    def forward(self, x):
        a, b = self.depthwise(self.first(x)).chunk(2, 1)
        return self.last(F.gelu(a) * b)


class ChannelAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.temperature, self.qkv = nn.Parameter(torch.ones(1, 1, 1)), nn.Linear(c, 3 * c)
        self.project = nn.Conv2d(c, c, 1, bias=False)

    def forward(self, x):
        n, c, h, w = x.shape
        qkv = self.qkv(x.permute(0, 2, 3, 1).reshape(n, h * w, c))
        q, k, v = (part.transpose(1, 2) for part in qkv.chunk(3, -1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(1, 2) * self.temperature
        return self.project((scores.softmax(-1) @ v).reshape(n, c, h, w))


class Gating(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.first, self.mix, self.last = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
        self.near = nn.Conv2d(c, c, 5, padding=2, groups=c)
        self.far = nn.Conv2d(c, c, 7, padding=9, dilation=3, groups=c)
        self.scale = nn.Parameter(torch.ones(1, c, 1, 1))

    def forward(self, x):
        a, v = self.first(x).chunk(2, 1)
        return self.last(v * self.mix(self.far(self.near(a)))) * self.scale


class Layer(nn.Module):
    def __init__(self, c, norm, part):
        super().__init__()
        self.norms, self.part, self.feed_forward = nn.ModuleList([norm(c), norm(c)]), part(c), FeedForward(c)

    def forward(self, x):
        x = x + self.part(self.norms[0](x))
        return x + self.feed_forward(self.norms[1](x))


class Ditn(nn.Module):
    """One unit of DITN, with layer norms or with tangents."""

    def __init__(self, scale, norm, c=60, side=8):
        super().__init__()
        self.inner = nn.Sequential(*(Layer(c, norm, ChannelAttention) for _ in range(4)))
        self.spatial = nn.Sequential(*(Layer(c, norm, Gating) for _ in range(4)))
        self.head, self.after = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.tail = nn.Conv2d(c, 3 * scale * scale, 3, padding=1)
        self.scale, self.side = scale, side

    def forward(self, x):
        head = self.head(x)
        (n, c, h, w), s = head.shape, self.side
        y = head.reshape(n, c, h // s, s, w // s, s).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, s, s)
        y = self.inner(y).reshape(n, h // s, w // s, c, s, s).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
        return F.pixel_shuffle(self.tail(self.after(self.spatial(y)) + head), self.scale)


def network_of(args):
    if args.network == "rlfn_s":
        return Rlfn(args.scale)
    return Ditn(args.scale, LayerNorm if args.network == "ditn_tiny" else Tangent)


def median(step, seconds=2.0):
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end and len(times) < 40:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(5):
            step()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 5)
    return sorted(times)[len(times) // 2]


def training(args, dtype, mode):
    """One step on fixed samples, and how to take it."""
    torch.manual_seed(1)
    network = network_of(args).cuda().to(memory_format=torch.channels_last)
    side = args.patch // args.scale
    low = torch.rand(args.batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
    high = torch.rand(args.batch, 3, args.patch, args.patch, device="cuda").to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=5e-4, fused=True, capturable=True)
    call = network if mode is None else torch.compile(network, mode=mode)

    def step():
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            out = call(low)
        loss = F.l1_loss(out.float(), high)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(average, parameters, 1e-3)

    return step


def captured(step):
    # On the stream that all ran on before: the graph of gradients remembers it.
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph.replay


def peers(args, dtype):
    began, rows = time.monotonic(), []

    def add(label, ms):
        # At once, should the rest take longer than anybody waits.
        print(f"{label}: {ms:.3f} ms", flush=True)
        rows.append((label, ms))

    torch.cuda.set_stream(torch.cuda.Stream())
    name = f"PyTorch {torch.__version__} {str(dtype)[6:]}"
    for mode in [None, "default", "max-autotune-no-cudagraphs", "reduce-overhead"]:
        label = "eager" if mode is None else f"compile {mode}"
        if time.monotonic() - began > args.seconds:
            print(f"left out for the time it takes to compile: {label}")
            continue
        try:
            torch._dynamo.reset()
            step = training(args, dtype, mode)
            add(f"{name}, {label}", median(step))
            if mode != "reduce-overhead":
                add(f"{name}, {label}, CUDA graph", median(captured(step)))
        except Exception as error:
            print(f"{name}, {label}: {str(error).splitlines()[0][:200]}", flush=True)
    return rows


def own(args, precision, *more):
    command = [args.supple, "bench", "train", "--network", args.network, "--scale", str(args.scale), "--json"]
    command += ["--batch", str(args.batch), "--patch", str(args.patch), "--precision", precision, "--device", "cuda"]
    done = subprocess.run(command + list(more), capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        print(f"supple {precision}: {done.stderr.strip()}")
        return []
    row = json.loads(done.stdout)
    kind = "kernel by kernel" if more else "CUDA graph"
    print(f"Supple {precision}, {kind}: {row['median_ms']:.3f} ms", flush=True)
    return [(f"Supple {precision}, {kind}", row["median_ms"])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("supple", nargs="?", help="the program; without it PyTorch alone is measured")
    parser.add_argument("--network", choices=["rlfn_s", "ditn_tiny", "ditn_real"], default="rlfn_s")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--precision", nargs="*", default=["bf16"])
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    types = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
    rows = []
    for precision in args.precision:
        if args.supple:
            rows += own(args, precision) + own(args, precision, "--no-graph")
        rows += peers(args, types[precision])
    print(f"{torch.cuda.get_device_name()}, {args.network} x{args.scale}, batch {args.batch}, patches of {args.patch}")
    print(f"{'':60} {'ms a step':>10} {'steps/s':>8}")
    for name, ms in sorted(rows, key=lambda row: row[1]):
        print(f"{name:60} {ms:10.3f} {1e3 / ms:8.1f}")
    best = [min((ms for name, ms in rows if name.startswith(who)), default=None) for who in ("PyTorch", "Supple")]
    if all(best):
        print(f"Supple is {best[0] / best[1]:.2f} times as fast as the best of PyTorch's modes above")


main()
