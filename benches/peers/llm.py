"""Language models: Supple beside llama.cpp, the same file, the same threads, taking turns.

    cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON    # in a checkout of llama.cpp
    cmake --build build --target llama-bench llama-quantize
    python3 benches/peers/llm.py --llama build/bin MODEL.gguf... [--threads 2] [--rounds 5] [--quantise q4_0,q8_0]

pp512: 512 tokens of a prompt at once. tg128: 128 tokens one by one, from an empty context. In each round one program runs
after the other, each in a process of its own; medians are compared. First token: seconds from the start of a process, the
file in the page cache, to the first token after a prompt of 32 (llama-bench: to its end after such a prompt). Memory: how
much of the rate at which the same threads read memory the weights of decoded tokens come to.

With --quantise, llama-quantize makes files of these types from the first model, beside it, which are measured as well. With
--perplexity TEXT, the perplexity of both on the first windows of a text: windows of 512 tokens side by side, of which the
second half counts. That needs llama-cpp-python.
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import time

PROMPT, ANSWER, SHORT = 512, 128, 32


def output(command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout


def sizes(prompt):
    return ["-p", PROMPT, "-n", 0] if prompt else ["-p", 0, "-n", ANSWER]


def peer(args, model, prompt):
    """Tokens a second of one round of llama.cpp."""
    command = [args.llama / "llama-bench", "-m", model, "-t", args.threads, "-r", 1, "-o", "json", *sizes(prompt)]
    return json.loads(output(command))[0]["avg_ts"]


def supple(args, model, prompt):
    """The same of Supple, with the share of the memory's rate."""
    command = [args.supple, "bench", "llm", model, "--threads", args.threads, "--rounds", 1, "--json", *sizes(prompt)]
    result = json.loads(output(command))["results"][0]
    weights = result["weights_gb_per_second"]
    return result["tokens_per_second"], weights and weights / result["memory_gb_per_second"]


def first(args, model):
    """Seconds from start to first token of both, and those that Supple takes to load."""
    prompt = " a" * (SHORT - 1)
    start = time.perf_counter()
    ours = json.loads(output([args.supple, "generate", model, prompt, "-n", 1, "-t", 0, "--threads", args.threads, "--json"]))
    own = time.perf_counter() - start
    start = time.perf_counter()
    output([args.llama / "llama-bench", "-m", model, "-t", args.threads, "-r", 1, "--no-warmup", "-p", ours["prompt_tokens"],
            "-n", 0, "-o", "json"])
    return own, time.perf_counter() - start, ours["load_seconds"]


def measure(args, model):
    name = pathlib.Path(model).stem
    for test, prompt in ((f"pp{PROMPT}", True), (f"tg{ANSWER}", False)):
        rounds = [(*supple(args, model, prompt), peer(args, model, prompt)) for _ in range(args.rounds)]
        ours, theirs = (statistics.median(row[column] for row in rounds) for column in (0, 2))
        memory = "-" if prompt else f"{100 * statistics.median(row[1] for row in rounds):.0f} %"
        print(f"| {name} | {test}, tokens/s | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} | {memory} |", flush=True)
    rounds = [first(args, model) for _ in range(args.rounds)]
    ours, theirs, load = (statistics.median(column) for column in zip(*rounds))
    print(f"| | first token, s | {ours:.3f} ({load:.3f} to load) | {theirs:.3f} | {theirs / ours:.2f} | - |", flush=True)


def quantised(args):
    """Files of other types, made from the first model."""
    source = pathlib.Path(args.models[0])
    for kind in filter(None, args.quantise.upper().split(",")):
        path = source.with_name(f"{source.name.split('.')[0]}.{kind}.gguf")
        if not path.exists():
            output([args.llama / "llama-quantize", "--allow-requantize", "--pure", source, path, kind])
        yield str(path)


def peer_perplexity(args, path):
    import numpy
    from llama_cpp import Llama, llama_cpp

    model = Llama(path, n_ctx=512, n_batch=512, n_threads=args.threads, n_threads_batch=args.threads, logits_all=True,
                  verbose=False)
    text = open(args.perplexity, "rb").read()
    ids = model.tokenize(text, add_bos=False, special=False)
    begins = llama_cpp.llama_vocab_get_add_bos(llama_cpp.llama_model_get_vocab(model._model.model))
    losses = []
    for window in range(args.windows):
        part = ids[window * 512:(window + 1) * 512]
        if begins:
            part[0] = model.token_bos()
        model.reset()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model._ctx.ctx), True)
        model.eval(part)
        logits = model.scores[256:511].astype(numpy.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[numpy.arange(255), part[257:512]]
        losses += list(numpy.log(numpy.exp(logits).sum(axis=1)) - chosen)
    return math.exp(sum(losses) / len(losses))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--llama", type=pathlib.Path, default=pathlib.Path("build/bin"), help="folder with llama-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--supple", default="target/release/supple")
    parser.add_argument("--quantise", default="", metavar="TYPES")
    parser.add_argument("--perplexity", metavar="TEXT")
    parser.add_argument("--windows", type=int, default=20)
    args = parser.parse_args()
    models = [args.models[0], *quantised(args), *args.models[1:]]
    print("| model | test | Supple | llama.cpp | ratio | memory |\n|---|---|---|---|---|---|")
    for model in models:
        measure(args, model)
    for model in models if args.perplexity else []:
        command = [args.supple, "eval", "ppl", model, "--text", args.perplexity, "--windows", args.windows,
                   "--threads", args.threads, "--json"]
        ours, theirs = json.loads(output(command))["perplexity"], peer_perplexity(args, model)
        print(f"\n{model}: perplexity {ours:.4f}, llama.cpp {theirs:.4f}: {(ours / theirs - 1) * 100:+.2f} %")


if __name__ == "__main__":
    main()
