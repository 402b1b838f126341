"""Makes ditn_twin.safetensors: a DITN with layer norms and random weights, an input and its output by PyTorch.

Needs torch, numpy, safetensors. Run: python3 make_ditn_twin.py

The network is the layer-norm twin of DITN_Real (60 channels, scale 2, one unit with one inner-patch and one spatial-aware
layer). Its checkpoint was never released; keys are those of DITN_Real with `norm1` and `norm2` for `conv1` and `conv2`.
Weights are stored as f16, and the output was computed in f64 from their f16 values. Written from the formulas of
"Unfolding Once is Enough" (arXiv 2308.02794); contains no third-party code.
"""
import os
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

C, S, P = 60, 2, 8
torch.manual_seed(7)
weights = {}


def put(name, *shape, scale=None, offset=0.0):
    fan_in = 1
    for n in shape[1:]:
        fan_in *= n
    scale = (1.0 / fan_in) ** 0.5 if scale is None else scale
    weights[name] = (torch.randn(shape) * scale + offset).half()


def conv(name, out, inputs, side, bias=True):
    put(name + ".weight", out, inputs, side, side)
    if bias:
        put(name + ".bias", out, scale=0.1)


conv("sft", C, 3, 3)
for layer in ("UFONE.0.ITLs.0", "UFONE.0.SALs.0"):
    for norm in ("norm1", "norm2"):
        put(f"{layer}.{norm}.weight", C, scale=0.3, offset=1.0)
        put(f"{layer}.{norm}.bias", C, scale=0.2)
    conv(f"{layer}.ffn.project_in", 4 * C, C, 1, bias=False)
    conv(f"{layer}.ffn.dwconv", 4 * C, 1, 3, bias=False)
    conv(f"{layer}.ffn.project_out", C, 2 * C, 1, bias=False)
put("UFONE.0.ITLs.0.attn.temperature", 1, 1, 1, scale=0.0, offset=3.0)
put("UFONE.0.ITLs.0.attn.qkv.weight", 3 * C, C)
put("UFONE.0.ITLs.0.attn.qkv.bias", 3 * C, scale=0.1)
conv("UFONE.0.ITLs.0.attn.project_out", C, C, 1, bias=False)
put("UFONE.0.SALs.0.SDA.scale", 1, C, 1, 1, scale=0.3, offset=1.0)
conv("UFONE.0.SALs.0.SDA.DConvs.0", C, 1, 5)
conv("UFONE.0.SALs.0.SDA.DConvs.1", C, 1, 7)
conv("UFONE.0.SALs.0.SDA.DConvs.2", C, C, 1)
conv("UFONE.0.SALs.0.SDA.proj_first.0", 2 * C, C, 1)
conv("UFONE.0.SALs.0.SDA.proj_last.0", C, C, 1)
conv("conv_after_body", C, C, 3)
conv("upsample.0", 3 * S * S, C, 3)
x = torch.rand(1, 3, 13, 22).half()

sd = {name: value.double() for name, value in weights.items()}


def cv(t, name, **options):
    return F.conv2d(t, sd[name + ".weight"], sd.get(name + ".bias"), **options)


def norm(t, name):
    t = F.layer_norm(t.permute(0, 2, 3, 1), (C,), sd[name + ".weight"], sd[name + ".bias"], 1e-5)
    return t.permute(0, 3, 1, 2)


def ffn(t, name):
    t = cv(cv(t, name + ".project_in"), name + ".dwconv", padding=1, groups=4 * C)
    a, b = t.chunk(2, 1)
    return cv(F.gelu(a) * b, name + ".project_out")


def inner_patch_layer(t, name):
    n = t.shape[0]
    y = norm(t, name + ".norm1").flatten(2).transpose(1, 2)
    qkv = F.linear(y, sd[name + ".attn.qkv.weight"], sd[name + ".attn.qkv.bias"])
    q, k, v = (part.transpose(1, 2) for part in qkv.chunk(3, -1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    a = (q @ k.transpose(1, 2) * sd[name + ".attn.temperature"]).softmax(-1)
    t = t + cv((a @ v).reshape(n, C, P, P), name + ".attn.project_out")
    return t + ffn(norm(t, name + ".norm2"), name + ".ffn")


def spatial_layer(t, name):
    a, v = cv(norm(t, name + ".norm1"), name + ".SDA.proj_first.0").chunk(2, 1)
    a = cv(a, name + ".SDA.DConvs.0", padding=2, groups=C)
    a = cv(a, name + ".SDA.DConvs.1", padding=9, dilation=3, groups=C)
    a = cv(a, name + ".SDA.DConvs.2")
    t = t + cv(v * a, name + ".SDA.proj_last.0") * sd[name + ".SDA.scale"]
    return t + ffn(norm(t, name + ".norm2"), name + ".ffn")


height, width = x.shape[2:]
padded = F.pad(x.double(), (0, -width % P, 0, -height % P), "reflect")
head = cv(padded, "sft", padding=1)
n, _, h, w = head.shape
patches = head.view(n, C, h // P, P, w // P, P).permute(0, 2, 4, 1, 3, 5).reshape(-1, C, P, P)
patches = inner_patch_layer(patches, "UFONE.0.ITLs.0")
f = patches.view(n, h // P, w // P, C, P, P).permute(0, 3, 1, 4, 2, 5).reshape(n, C, h, w)
f = spatial_layer(f, "UFONE.0.SALs.0")
y = cv(cv(f, "conv_after_body", padding=1) + head, "upsample.0", padding=1)
y = F.pixel_shuffle(y, S)[:, :, : height * S, : width * S]

weights["golden.x"], weights["golden.y"] = x[0], y[0].float()
here = os.path.dirname(os.path.abspath(__file__))
save_file({k: v.contiguous() for k, v in weights.items()}, os.path.join(here, "ditn_twin.safetensors"))
print("parameters", sum(v.numel() for k, v in weights.items() if not k.startswith("golden")), "output", float(y.min()), float(y.max()))
