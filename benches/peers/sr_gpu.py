"""RLFN on a GPU: Supple beside PyTorch's modes, on the same weights, input and card, in one run.

    python3 benches/peers/sr_gpu.py path/to/rlfn_gpu models/rlfn_s_x4.safetensors 320 180

`rlfn_gpu` is the example of crates/models (its head says how to build it). Times are of the network on the GPU alone, medians of
50 rounds of 10 passes; the host's copies are in none of them. The first column is what counts: the best mode of each.
"""

import json
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Rlfn(torch.nn.Module):
    """The network as its paper's checkpoints have it, written from its definition: no fusion but PyTorch's own."""

    def __init__(self, file):
        super().__init__()
        weights = load_file(file)
        self.range = 1.0
        with open(file, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        if header.get("__metadata__", {}).get("range") != "0..1":
            self.range = 255.0
        self.names = {}
        for name, value in weights.items():
            key = name.replace(".", "_")
            self.register_parameter(key, torch.nn.Parameter(value.float(), requires_grad=False))
        self.blocks = sum(1 for name in weights if name.endswith("c1_r.weight"))
        self.scale = int((weights["upsampler.0.weight"].shape[0] // 3) ** 0.5)

    def conv(self, name, x, **options):
        name = name.replace(".", "_")
        return F.conv2d(x, getattr(self, name + "_weight"), getattr(self, name + "_bias"), **options)

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


def main():
    binary, file, width, height = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    index = np.arange(width * height * 3, dtype=np.uint64)
    values = (((index * 2654435761) & 0xFFFFFFFF) >> 8).astype(np.float32) / float(1 << 24)
    x = torch.from_numpy(values.reshape(1, height, width, 3)).permute(0, 3, 1, 2).cuda()
    network = Rlfn(file).cuda().eval()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        truth = network.double()(x.double()).float().permute(0, 2, 3, 1).cpu().numpy()
    rows = []
    for dtype in [torch.float16, torch.bfloat16]:
        net = Rlfn(file).cuda().eval().to(dtype).to(memory_format=torch.channels_last)
        z = x.to(dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            error = np.abs(net(z).float().permute(0, 2, 3, 1).cpu().numpy() - truth).max() * 255
            modes = {"eager": lambda: net(z)}
            modes["eager, CUDA graph"] = captured(modes["eager"])
            for mode in ["default", "max-autotune-no-cudagraphs"]:
                torch._dynamo.reset()
                compiled = torch.compile(net, mode=mode)
                compiled(z)
                modes[f"compile {mode}, CUDA graph"] = captured(lambda: compiled(z))
            for name, run in modes.items():
                rows.append((f"PyTorch {torch.__version__} {str(dtype)[6:]}, {name}", measure(run), error))
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.run(
            [binary, file, str(width), str(height), folder + "/y"], check=True, capture_output=True, text=True
        ).stdout
        for line in out.splitlines():
            row = json.loads(line)
            y = np.fromfile(f"{folder}/y.{row['dtype']}", dtype=np.float32).reshape(truth.shape)
            error = np.abs(y - truth).max() * 255
            rows.append((f"Supple {row['dtype']}, CUDA graph", row["graph_ms"], error))
            rows.append((f"Supple {row['dtype']}, kernel by kernel", row["eager_ms"], error))
    print(f"{torch.cuda.get_device_name()}, {file}, {width}x{height} in")
    print(f"{'':60} {'ms':>8}  error of 255 on noise")
    for name, ms, error in sorted(rows, key=lambda row: row[1]):
        print(f"{name:60} {ms:8.3f}  {error:.2f}")
    best = min(ms for name, ms, _ in rows if name.startswith("PyTorch"))
    own = min(ms for name, ms, _ in rows if name.startswith("Supple"))
    print(f"Supple is {best / own:.2f} times as fast as PyTorch's best mode")


main()
