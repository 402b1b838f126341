"""Language models: Supple beside llama.cpp, the same file, the same threads, taking turns.

    pip install llama-cpp-python numpy      # built from source, so that it uses this machine's instructions
    python3 benches/peers/llm.py MODEL.gguf [--threads 2] [--rounds 5] [--perplexity TEXT]

pp512: 512 tokens of a prompt at once. tg128: 128 tokens one by one, from an empty context. In each round one program runs
after the other; medians are compared. With --perplexity, the perplexity of both on the first windows of a text as well:
windows of 512 tokens side by side, of which the second half counts.
"""
import argparse
import json
import math
import statistics
import subprocess
import time

import numpy
from llama_cpp import Llama, llama_cpp

PROMPT, ANSWER = 512, 128


def tokens(count, vocabulary):
    return [i * 2654435761 % vocabulary for i in range(count)]


def peer(model, prompt):
    """Tokens a second of one round of llama.cpp."""
    vocabulary = model.n_vocab()
    model.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model._ctx.ctx), True)
    start = time.perf_counter()
    if prompt:
        model.eval(tokens(PROMPT, vocabulary))
    else:
        for token in tokens(ANSWER, vocabulary):
            model.eval([token])
    return (PROMPT if prompt else ANSWER) / (time.perf_counter() - start)


def supple(args, prompt):
    """The same of Supple."""
    which = ["-p", str(PROMPT), "-n", "0"] if prompt else ["-p", "0", "-n", str(ANSWER)]
    command = [args.supple, "bench", "llm", args.model, "--threads", str(args.threads), "--rounds", "1", "--json", *which]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["results"][0]["tokens_per_second"]


def peer_perplexity(args):
    model = Llama(args.model, n_ctx=512, n_batch=512, n_threads=args.threads, n_threads_batch=args.threads,
                  logits_all=True, verbose=False)
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
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--supple", default="target/release/supple")
    parser.add_argument("--perplexity", metavar="TEXT")
    parser.add_argument("--windows", type=int, default=20)
    args = parser.parse_args()
    model = Llama(args.model, n_ctx=PROMPT, n_batch=PROMPT, n_ubatch=PROMPT, n_threads=args.threads,
                  n_threads_batch=args.threads, verbose=False)
    print("| test | Supple, tokens/s | llama.cpp, tokens/s | ratio |\n|---|---|---|---|")
    for name, prompt in ((f"pp{PROMPT}", True), (f"tg{ANSWER}", False)):
        peer(model, prompt)
        pairs = [(supple(args, prompt), peer(model, prompt)) for _ in range(args.rounds)]
        ours, theirs = (statistics.median(values) for values in zip(*pairs))
        print(f"| {name} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |", flush=True)
    if args.perplexity:
        command = [args.supple, "eval", "ppl", args.model, "--text", args.perplexity, "--windows", str(args.windows),
                   "--threads", str(args.threads), "--json"]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["perplexity"]
        theirs = peer_perplexity(args)
        print(f"\nperplexity: {ours:.4f}, llama.cpp {theirs:.4f}: {(ours / theirs - 1) * 100:+.2f} %")


if __name__ == "__main__":
    main()
