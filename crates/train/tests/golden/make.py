"""Ten optimiser steps of two small networks in PyTorch, in float64: what tests/golden.rs compares with.

    python make.py        writes transformer.safetensors and cnn.safetensors beside this file

Needs PyTorch alone. Each file holds start/NAME and end/NAME (parameters before and after), input/0 .. input/9 and
target/0 .. target/9, and losses.
"""

import json
import struct
from pathlib import Path

import torch
import torch.nn.functional as F

STEPS = 10
torch.set_default_dtype(torch.float64)


def save(name, tensors):
    header, blobs, offset = {}, [], 0
    for key, value in tensors.items():
        blob = value.detach().to(torch.float32).contiguous().numpy().tobytes()
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    Path(__file__).with_name(name).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def run(name, parameters, batches, loss_of, optimizer_of):
    # What both sides start from is what float32 holds.
    parameters = {key: value.float().double().requires_grad_() for key, value in parameters.items()}
    out = {f"start/{key}": value.clone() for key, value in parameters.items()}
    optimizer, losses = optimizer_of(list(parameters.values())), []
    for i, (x, y) in enumerate(batches):
        x, y = x.float().double(), y.float().double()
        out[f"input/{i}"], out[f"target/{i}"] = x, y
        optimizer.zero_grad()
        loss = loss_of(parameters, x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    out |= {f"end/{key}": value for key, value in parameters.items()}
    save(name, out | {"losses": torch.tensor(losses)})
    print(name, " ".join(f"{loss:.6f}" for loss in losses))


def uniform(*shape, fan_in):
    return (torch.rand(*shape) * 2 - 1) / fan_in**0.5


# A two-layer transformer: RMS norm, rotary positions, causal attention, SwiGLU, cross-entropy; AdamW.
VOCABULARY, WIDTH, HEADS, HIDDEN, TOKENS, BATCH = 29, 16, 2, 24, 7, 3


def transformer_parameters():
    p = {"embedding": torch.randn(VOCABULARY, WIDTH) * 0.5, "head": uniform(VOCABULARY, WIDTH, fan_in=WIDTH)}
    p["norm"] = 1 + 0.1 * torch.randn(WIDTH)
    for i in range(2):
        for part in ["q", "k", "v", "o"]:
            p[f"{i}.{part}"] = uniform(WIDTH, WIDTH, fan_in=WIDTH)
        for part in ["gate", "up"]:
            p[f"{i}.{part}"] = uniform(HIDDEN, WIDTH, fan_in=WIDTH)
        p[f"{i}.down"] = uniform(WIDTH, HIDDEN, fan_in=HIDDEN)
        for part in ["norm1", "norm2"]:
            p[f"{i}.{part}"] = 1 + 0.1 * torch.randn(WIDTH)
    return p


def rms_norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def rope(x):
    d = x.shape[-1]
    angles = torch.arange(TOKENS)[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)[None]
    cos, sin = torch.cos(angles).repeat(1, 2), torch.sin(angles).repeat(1, 2)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def transformer_loss(p, x, y):
    x = p["embedding"][x.long()]
    split = lambda t: t.view(BATCH, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)
    for i in range(2):
        h = rms_norm(x, p[f"{i}.norm1"])
        q, k, v = (split(h @ p[f"{i}.{part}"].T) for part in "qkv")
        a = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        x = x + a.transpose(1, 2).reshape(BATCH, TOKENS, WIDTH) @ p[f"{i}.o"].T
        h = rms_norm(x, p[f"{i}.norm2"])
        x = x + (F.silu(h @ p[f"{i}.gate"].T) * (h @ p[f"{i}.up"].T)) @ p[f"{i}.down"].T
    logits = rms_norm(x, p["norm"]) @ p["head"].T
    return F.cross_entropy(logits.view(-1, VOCABULARY), y.long().view(-1))


# A residual network on pictures: convolutions of all kinds, group norm, pooling, resize, pixel shuffle, Charbonnier; SGD.
def cnn_parameters():
    p = {}

    def conv(name, out, inputs, side):
        p[f"{name}.weight"] = uniform(out, inputs, side, side, fan_in=inputs * side * side)
        p[f"{name}.bias"] = uniform(out, fan_in=inputs * side * side)

    conv("head", 8, 3, 3)
    for i in range(2):
        conv(f"{i}.first", 12, 8, 3)
        conv(f"{i}.depthwise", 12, 1, 5)
        conv(f"{i}.second", 8, 12, 1)
        conv(f"{i}.coarse", 8, 8, 3)
        p[f"{i}.norm.weight"], p[f"{i}.norm.bias"] = 1 + 0.1 * torch.randn(8), 0.1 * torch.randn(8)
    conv("tail", 12, 8, 3)
    return p


def cnn_loss(p, x, y):
    conv = lambda name, x, **options: F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options)
    x = conv("head", x, padding=1)
    for i in range(2):
        h = F.group_norm(x, 2, p[f"{i}.norm.weight"], p[f"{i}.norm.bias"])
        h = F.leaky_relu(conv(f"{i}.first", h, padding=1), 0.05)
        h = F.gelu(conv(f"{i}.depthwise", h, padding=4, dilation=2, groups=12))
        h = conv(f"{i}.second", h)
        c = F.max_pool2d(conv(f"{i}.coarse", x, stride=2), 2, 1)
        c = F.interpolate(c, x.shape[2:], mode="bilinear", align_corners=False)
        x = x + h * torch.sigmoid(c)
    y_hat = F.pixel_shuffle(conv("tail", x, padding=1), 2)
    return torch.sqrt((y_hat - y) ** 2 + 1e-6).mean()


if __name__ == "__main__":
    torch.manual_seed(1)
    tokens = [torch.randint(0, VOCABULARY, (BATCH, TOKENS + 1)) for _ in range(STEPS)]
    batches = [(t[:, :-1], t[:, 1:]) for t in tokens]
    adam = lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.1)
    run("transformer.safetensors", transformer_parameters(), batches, transformer_loss, adam)
    batches = [(torch.rand(2, 3, 11, 9), torch.rand(2, 3, 22, 18)) for _ in range(STEPS)]
    sgd = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2)
    run("cnn.safetensors", cnn_parameters(), batches, cnn_loss, sgd)
