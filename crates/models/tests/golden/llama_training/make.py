"""Writes the loss of tiny decoders, its gradients and ten steps of AdamW, by `transformers` in double precision.

The decoders and the tokens are those of ../llama. Run in this folder, with torch and transformers installed: python3 make.py
"""
import pathlib

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

IGNORED = -100


def loss_of(model, tokens, targets):
    logits = model(tokens[None, :-1]).logits[0]
    return torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED)


for name in ["qwen2", "qwen3", "gemma2"]:
    folder = pathlib.Path("../llama") / name
    # In double precision from the start: constants such as Gemma's scale of embeddings are made in it too.
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with safe_open(folder / "model.safetensors", "pt") as file:
        tokens = file.get_tensor("golden.tokens").long()
    targets = tokens[1:].clone()
    targets[::5] = IGNORED
    loss = loss_of(model, tokens, targets)
    loss.backward()
    found = {"loss": loss.detach().float().reshape(1)}
    for key, parameter in model.named_parameters():
        found[f"gradient.{key}"] = parameter.grad.float().contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model, tokens, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    losses.append(loss_of(model, tokens, targets).item())
    found["losses"] = torch.tensor(losses, dtype=torch.float32)
    save_file(found, f"{name}.safetensors")
    print(name, losses[0], losses[-1])
