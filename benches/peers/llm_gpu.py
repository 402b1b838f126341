"""A language model's shape on a GPU: Supple beside PyTorch, on one card, in one run, with random weights.

    python3 benches/peers/llm_gpu.py path/to/supple [--shape llama-3.1-8b] [--formats bf16,q4_k] [--batch 1,8,64] [--prompt 2048,8192]

PyTorch runs a decoder written here in plain PyTorch, in bf16: a static cache of keys and values, `torch.compile` of a layer (--mode,
as torch.compile takes it), and the whole step, with the choice of the likeliest token, captured as one CUDA graph; prompts go
through scaled_dot_product_attention without compilation. Numbers are tokens a second: medians of --rounds rounds of 128 tokens, or of
a prompt. Both start from an empty context. Weights are bf16 in PyTorch whatever Supple's are.
"""

import argparse
import json
import subprocess
import time

import torch
import torch.nn.functional as F

# hidden, intermediate, layers, heads, heads of keys, elements of a head, vocabulary, base of positions
SHAPES = {
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128, 128256, 5e5),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, 5e5),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128, 128256, 5e5),
    "mistral-7b": (4096, 14336, 32, 32, 8, 128, 32768, 1e6),
}
EPSILON = 1e-5


def rotate(x, cos, sin):
    """x: [batch, heads, length, size]; cos and sin: [length, size / 2]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def layer(x, weights, cache, cos, sin, place, mask, sizes):
    """x: [batch, length, hidden]; place: where keys and values go; mask: [1, 1, length, cached], or None for a prompt."""
    heads, kv_heads, size = sizes
    batch, length, hidden = x.shape
    norm, qkv, out, feed_norm, gate_up, down = weights
    y = F.linear(F.rms_norm(x, (hidden,), norm, EPSILON), qkv)
    q, k, v = y.split((heads * size, kv_heads * size, kv_heads * size), dim=-1)
    q = rotate(q.view(batch, length, heads, size).transpose(1, 2), cos, sin)
    k = rotate(k.view(batch, length, kv_heads, size).transpose(1, 2), cos, sin)
    v = v.view(batch, length, kv_heads, size).transpose(1, 2)
    keys, values = cache
    keys.index_copy_(2, place, k)
    values.index_copy_(2, place, v)
    if mask is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    else:
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
    x = x + F.linear(y.transpose(1, 2).reshape(batch, length, heads * size), out)
    gate, up = F.linear(F.rms_norm(x, (hidden,), feed_norm, EPSILON), gate_up).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, down)


class Decoder:
    def __init__(self, shape, longest):
        hidden, wide, layers, heads, kv_heads, size, vocabulary, base = shape
        self.sizes, self.vocabulary, self.longest = (heads, kv_heads, size), vocabulary, longest

        def matrix(rows, columns):
            return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * 0.02

        def ones():
            return torch.ones(hidden, device="cuda", dtype=torch.bfloat16)

        self.embedding, self.head, self.norm = matrix(vocabulary, hidden), matrix(vocabulary, hidden), ones()
        self.layers = [
            (
                ones(),
                matrix((heads + 2 * kv_heads) * size, hidden),
                matrix(hidden, heads * size),
                ones(),
                matrix(2 * wide, hidden),
                matrix(hidden, wide),
            )
            for _ in range(layers)
        ]
        angles = torch.arange(longest)[:, None] * base ** (-torch.arange(0, size, 2) / size)
        self.cos, self.sin = angles.cos().cuda(), angles.sin().cuda()

    def cache(self, batch, length):
        _, kv_heads, size = self.sizes
        shape = (batch, kv_heads, length, size)
        one = lambda: torch.zeros(shape, device="cuda", dtype=torch.bfloat16)
        return [(one(), one()) for _ in self.layers]

    def logits(self, x):
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, EPSILON), self.head)

    def prompt(self, tokens, cache):
        length = tokens.shape[1]
        x, place = F.embedding(tokens, self.embedding), torch.arange(length, device="cuda")
        for weights, cached in zip(self.layers, cache):
            x = layer(x, weights, cached, self.cos[:length], self.sin[:length], place, None, self.sizes)
        return self.logits(x[:, -1])

    def step(self, tokens, place, cache, run):
        """tokens: [batch, 1]; place: [1]."""
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[place], self.sin[place]
        mask = (torch.arange(cache[0][0].shape[2], device="cuda") <= place)[None, None, None, :]
        for weights, cached in zip(self.layers, cache):
            x = run(x, weights, cached, cos, sin, place, mask, self.sizes)
        tokens.copy_(self.logits(x).argmax(dim=-1))
        place.add_(1)


def median(values):
    return sorted(values)[len(values) // 2]


def timed(work):
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def pytorch(args):
    decoder, found = Decoder(SHAPES[args.shape], max(args.prompt + [128])), {}
    for length in args.prompt:
        tokens, cache = torch.randint(0, decoder.vocabulary, (1, length), device="cuda"), decoder.cache(1, length)
        decoder.prompt(tokens, cache)
        found[f"pp{length}"] = length / median([timed(lambda: decoder.prompt(tokens, cache)) for _ in range(args.rounds)])
    run = torch.compile(layer, mode=args.mode, dynamic=False)
    for batch in args.batch:
        cache, place = decoder.cache(batch, 128), torch.zeros(1, dtype=torch.long, device="cuda")
        tokens = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                decoder.step(tokens, place, cache, run)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            decoder.step(tokens, place, cache, run)

        def generate():
            place.zero_()
            for _ in range(128):
                graph.replay()

        generate()
        seconds = median([timed(generate) for _ in range(args.rounds)])
        found["tg128" if batch == 1 else f"tg128 x{batch}"] = batch * 128 / seconds
    return found


def supple(args, format):
    numbers = lambda values: ",".join(map(str, values))
    command = [args.binary, "bench", "llm", "--shape", args.shape, "--format", format, "--device", "cuda", "--json"]
    command += ["-p", numbers(args.prompt), "-n", "128", "--batch", numbers(args.batch), "-r", str(args.rounds)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {result["test"]: result["tokens_per_second"] for result in json.loads(text)["results"]}


def main():
    numbers = lambda text: [int(number) for number in text.split(",") if number]
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--formats", default="bf16,q4_k")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 64])
    parser.add_argument("--prompt", type=numbers, default=[2048, 8192])
    parser.add_argument("--mode", default="default", help="default or max-autotune-no-cudagraphs; steps are graphs in any case")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    formats = [format for format in args.formats.split(",") if format]
    columns = {f"Supple {format}": supple(args, format) for format in formats}
    columns = {f"PyTorch {torch.__version__} bf16, {args.mode}": pytorch(args), **columns}
    print(f"{args.shape}, random weights, {torch.cuda.get_device_name()}; tokens a second\n")
    print("| | " + " | ".join(columns) + " |\n|---" + "|---:" * len(columns) + "|")
    for test in next(iter(columns.values())):
        print(f"| {test} | " + " | ".join(f"{column[test]:.0f}" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
