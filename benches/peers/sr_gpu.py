"""Super-resolution on a GPU: Supple beside PyTorch's modes, on the same weights, input and card, in one run.

    python3 benches/peers/sr_gpu.py path/to/sr_gpu models/rlfn_s_x4.safetensors 320 180
    python3 benches/peers/sr_gpu.py path/to/sr_gpu DITN_Real_x4.pth 320 184 --dtypes float16 --modes graph,default

`sr_gpu` is the example of crates/models (its head says how to build it). Times are of the network on the GPU alone, medians of
50 rounds of 10 passes; the host's copies are in none of them. --modes are eager, graph (a captured CUDA graph), default and
max-autotune (torch.compile, captured); compiling takes up to a minute each. DITN wants sides that are multiples of 8.
"""

import argparse
import json
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn.functional as F


def read(file):
    """Tensors of a checkpoint, and what its pictures range to."""
    if file.endswith(".pth"):
        return torch.load(file, map_location="cpu", weights_only=True), 255.0
    from safetensors.torch import load_file

    with open(file, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    return load_file(file), 1.0 if header.get("__metadata__", {}).get("range") == "0..1" else 255.0


class Network(torch.nn.Module):
    """A network as its checkpoint has it, written from its definition: no fusion but PyTorch's own."""

    def __init__(self, weights):
        super().__init__()
        for name, value in weights.items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value.float(), requires_grad=False))

    def get(self, name):
        return getattr(self, name.replace(".", "_"), None)

    def conv(self, name, x, **options):
        return F.conv2d(x, self.get(name + ".weight"), self.get(name + ".bias"), **options)


class Rlfn(Network):
    def __init__(self, weights, scale_of_input):
        super().__init__(weights)
        self.range = scale_of_input
        self.blocks = sum(1 for name in weights if name.endswith("c1_r.weight"))
        self.scale = int((weights["upsampler.0.weight"].shape[0] // 3) ** 0.5)

    def forward(self, x):
        head = self.conv("conv_1", x * self.range, padding=1)
        y = head
        for i in range(1, self.blocks + 1):
            b = f"block_{i}."
            o = F.leaky_relu(self.conv(b + "c1_r", y, padding=1), 0.05)
            o = F.leaky_relu(self.conv(b + "c2_r", o, padding=1), 0.05)
            o = F.leaky_relu(self.conv(b + "c3_r", o, padding=1), 0.05)
            o = self.conv(b + "c5", o + y)
            r = self.conv(b + "esa.conv1", o)
            c = F.max_pool2d(self.conv(b + "esa.conv2", r, stride=2), 7, 3)
            c = self.conv(b + "esa.conv3", c, padding=1)
            c = F.interpolate(c, o.shape[2:], mode="bilinear", align_corners=False)
            y = o * torch.sigmoid(self.conv(b + "esa.conv4", c + self.conv(b + "esa.conv_f", r)))
        y = self.conv("conv_2", y, padding=1) + head
        return F.pixel_shuffle(self.conv("upsampler.0", y, padding=1), self.scale) / self.range


class Ditn(Network):
    """One unit, with hyperbolic tangents or layer norms."""

    def __init__(self, weights, _):
        super().__init__(weights)
        self.tanh = "UFONE.0.ITLs.0.conv1.weight" in weights
        self.inner = sum(1 for name in weights if name.endswith("attn.temperature"))
        self.spatial = sum(1 for name in weights if name.endswith("SDA.scale"))
        self.scale = int((weights["upsample.0.weight"].shape[0] // 3) ** 0.5)

    def before(self, layer, which, x):
        if self.tanh:
            return self.conv(f"{layer}.conv{which}", torch.tanh(x))
        y = x.permute(0, 2, 3, 1)
        name = f"{layer}.norm{which}"
        y = F.layer_norm(y, y.shape[-1:], self.get(name + ".weight"), self.get(name + ".bias"))
        return y.permute(0, 3, 1, 2)

    def attention(self, layer, x):
        n, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        qkv = F.linear(tokens, self.get(layer + ".attn.qkv.weight"), self.get(layer + ".attn.qkv.bias"))
        q, k, v = (part.transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scores = (q @ k.transpose(1, 2)) * self.get(layer + ".attn.temperature")
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)
        return self.conv(layer + ".attn.project_out", mixed)

    def feed_forward(self, layer, x):
        x = self.conv(layer + ".ffn.project_in", x)
        a, b = self.conv(layer + ".ffn.dwconv", x, padding=1, groups=x.shape[1]).chunk(2, dim=1)
        return self.conv(layer + ".ffn.project_out", F.gelu(a) * b)

    def gating(self, layer, x):
        c = x.shape[1]
        a, v = self.conv(layer + ".SDA.proj_first.0", x).chunk(2, dim=1)
        a = self.conv(layer + ".SDA.DConvs.0", a, padding=2, groups=c)
        a = self.conv(layer + ".SDA.DConvs.1", a, padding=9, dilation=3, groups=c)
        a = self.conv(layer + ".SDA.DConvs.2", a)
        return self.conv(layer + ".SDA.proj_last.0", v * a) * self.get(layer + ".SDA.scale")

    def forward(self, x):
        head = self.conv("sft", x, padding=1)
        n, c, h, w = head.shape
        y = head.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 8, 8)
        y = y.contiguous(memory_format=torch.channels_last)
        for i in range(self.inner):
            layer = f"UFONE.0.ITLs.{i}"
            y = y + self.attention(layer, self.before(layer, 1, y))
            y = y + self.feed_forward(layer, self.before(layer, 2, y))
        y = y.reshape(n, h // 8, w // 8, c, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
        y = y.contiguous(memory_format=torch.channels_last)
        for i in range(self.spatial):
            layer = f"UFONE.0.SALs.{i}"
            y = y + self.gating(layer, self.before(layer, 1, y))
            y = y + self.feed_forward(layer, self.before(layer, 2, y))
        y = self.conv("conv_after_body", y, padding=1) + head
        return F.pixel_shuffle(self.conv("upsample.0", y, padding=1), self.scale)


def measure(run):
    for _ in range(20):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(50):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(10):
            run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 10)
    return sorted(times)[len(times) // 2]


def captured(run):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def supple(args, values, truth):
    """Rows of Supple: name, milliseconds, largest difference from the truth."""
    with tempfile.TemporaryDirectory() as folder:
        values.tofile(folder + "/x")
        command = [args.binary, args.file, str(args.width), str(args.height), folder + "/y", folder + "/x"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for line in out.splitlines():
            row = json.loads(line)
            y = np.fromfile(f"{folder}/y.{row['dtype']}", dtype=np.float32).reshape(truth.shape)
            error = np.abs(np.clip(y, 0, 1) - np.clip(truth, 0, 1)).max() * 255
            yield f"Supple {row['dtype']}, CUDA graph", row["graph_ms"], error
            yield f"Supple {row['dtype']}, kernel by kernel", row["eager_ms"], error


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("file")
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("--dtypes", default="float16,bfloat16")
    parser.add_argument("--modes", default="eager,graph,default,max-autotune")
    parser.add_argument("--picture", help="values of a picture, f32, height x width x 3, in place of noise")
    args = parser.parse_args()
    width, height = args.width, args.height
    index = np.arange(width * height * 3, dtype=np.uint64)
    values = (((index * 2654435761) & 0xFFFFFFFF) >> 8).astype(np.float32) / float(1 << 24)
    if args.picture:
        values = np.fromfile(args.picture, dtype=np.float32)
    x = torch.from_numpy(values.reshape(1, height, width, 3)).permute(0, 3, 1, 2).cuda()
    weights, scale_of_input = read(args.file)
    make = lambda: (Ditn if "sft.weight" in weights else Rlfn)(weights, scale_of_input).cuda().eval()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        truth = make().double()(x.double()).float().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    rows = list(supple(args, values, truth))
    modes = [mode for mode in args.modes.split(",") if mode]
    for dtype in [getattr(torch, name) for name in args.dtypes.split(",")]:
        net = make().to(dtype).to(memory_format=torch.channels_last)
        z = x.to(dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            y = net(z).float().permute(0, 2, 3, 1).cpu().numpy()
            error = np.abs(np.clip(y, 0, 1) - np.clip(truth, 0, 1)).max() * 255
            for mode in modes:
                if mode in ["eager", "graph"]:
                    run = (lambda: net(z)) if mode == "eager" else captured(lambda: net(z))
                    name = "eager" if mode == "eager" else "eager, CUDA graph"
                else:
                    torch._dynamo.reset()
                    compiled = torch.compile(net, mode="default" if mode == "default" else "max-autotune-no-cudagraphs")
                    compiled(z)
                    run, name = captured(lambda: compiled(z)), f"compile {mode}, CUDA graph"
                rows.append((f"PyTorch {torch.__version__} {str(dtype)[6:]}, {name}", measure(run), error))
    print(f"{torch.cuda.get_device_name()}, {args.file}, {width}x{height} in")
    print(f"{'':60} {'ms':>8}  error of 255 on {'a picture' if args.picture else 'noise'}")
    for name, ms, error in sorted(rows, key=lambda row: row[1]):
        print(f"{name:60} {ms:8.3f}  {error:.2f}")
    if modes:
        best = min(ms for name, ms, _ in rows if name.startswith("PyTorch"))
        own = min(ms for name, ms, _ in rows if name.startswith("Supple"))
        print(f"Supple is {best / own:.2f} times as fast as PyTorch's best mode")


main()
