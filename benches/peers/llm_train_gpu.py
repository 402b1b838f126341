"""Training a decoder of SmolLM2's shape (135 million parameters) on a GPU: Supple beside PyTorch's modes, on the same card.

    python3 benches/peers/llm_train_gpu.py target/release/deps/language-... [--batch 8] [--length 1024]

The first argument is the test program `language` of supple-train (`cargo test --release -p supple-train --features cuda --test language
--no-run` says its path), whose ignored test `speed` trains that shape. A step is forward, cross-entropy of the next token, backward,
clipping to norm 1 and AdamW, in bf16 with f32 weights; PyTorch has autocast and the fused AdamW, eager and with compiled layers, each
captured whole as a CUDA graph. Times are medians of steps after a warm-up.
"""

import argparse
import re
import subprocess
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCABULARY, HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS = 49152, 576, 1536, 30, 9, 3
HEAD = HIDDEN // HEADS


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(HIDDEN, eps=1e-5), nn.RMSNorm(HIDDEN, eps=1e-5)
        self.q, self.o = nn.Linear(HIDDEN, HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k, self.v = (nn.Linear(HIDDEN, KV_HEADS * HEAD, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(HIDDEN, WIDE, bias=False) for _ in range(2))
        self.down = nn.Linear(WIDE, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        y = self.norm1(x)
        q, k, v = (p(y).view(batch, length, -1, HEAD).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, HIDDEN))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-5)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids, targets, cos, sin):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.loss(x, targets)

    def loss(self, x, targets):
        return F.cross_entropy(F.linear(self.norm(x), self.embedding.weight).flatten(0, 1), targets.flatten())


def pytorch(batch, length, compiled):
    torch.manual_seed(1)
    model = Decoder().cuda()
    if compiled:
        for layer in model.layers:
            layer.compile()
        model.loss = torch.compile(model.loss)
    angles = torch.arange(length, device="cuda")[:, None] / 10000 ** (torch.arange(0, HEAD, 2, device="cuda") / HEAD)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True, capturable=True)
    rows = torch.randint(0, 4096, (batch, length + 1), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(rows[:, :-1], rows[:, 1:], cos, sin)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    began = time.time()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    ready = time.time() - began

    def median(work):
        times = []
        for _ in range(15):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return sorted(times[3:])[6]

    plain = median(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return plain, median(graph.replay), ready


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    text = subprocess.run([options.program, "--ignored", "--nocapture", "speed"], capture_output=True, text=True).stdout
    for line in re.findall(r"batch .* ms a step", text):
        print("Supple,", line)
    for compiled in (False, True)[: 1 if options.no_compile else 2]:
        plain, graph, ready = pytorch(options.batch, options.length, compiled)
        name = "compiled" if compiled else "eager"
        print(f"PyTorch, batch {options.batch}, {name}: {plain:.2f} ms a step, as a graph {graph:.2f} ms (ready in {ready:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
