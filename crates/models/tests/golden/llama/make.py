"""Writes tiny decoders with random weights, one folder each, and their logits by `transformers` in double precision.

Run in this folder, with torch and transformers installed: python3 make.py
"""
import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file

SHAPE = dict(
    vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    attn_implementation="eager",
)
LAYERS = ["sliding_attention", "full_attention"]


def rope(kind, theta=10000.0, **rest):
    return dict(rope_type=kind, rope_theta=theta, **rest)


MODELS = {
    "llama": ("Llama", dict(tie_word_embeddings=False)),
    "llama_tied": ("Llama", dict(tie_word_embeddings=True, head_dim=10, rope_parameters=rope("default", 1e5))),
    "llama3": ("Llama", dict(rope_parameters=rope(
        "llama3", 500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "llama_linear": ("Llama", dict(rope_parameters=rope("linear", factor=4.0))),
    "llama_ntk": ("Llama", dict(max_position_embeddings=16, rope_parameters=rope("dynamic", factor=2.0))),
    "mistral": ("Mistral", dict(sliding_window=8)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2_yarn": ("Qwen2", dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16))),
    "qwen3": ("Qwen3", dict(head_dim=12)),
    "gemma2": ("Gemma2", dict(
        head_dim=12, query_pre_attn_scalar=20, sliding_window=8, layer_types=LAYERS, attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3", dict(
        head_dim=12, query_pre_attn_scalar=12, sliding_window=8, layer_types=LAYERS,
        rope_parameters={"full_attention": rope("linear", 1e6, factor=8.0), "sliding_attention": rope("default")})),
    "phi3": ("Phi3", dict(sliding_window=8)),
    "phi3_long": ("Phi3", dict(
        original_max_position_embeddings=16, rope_parameters=rope(
            "longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 1.5, 2.5, 4.0],
            original_max_position_embeddings=16))),
    "olmo2": ("Olmo2", dict()),
}

for index, (name, (family, changes)) in enumerate(MODELS.items()):
    torch.manual_seed(index)
    config_class = getattr(transformers, family + ("TextConfig" if family == "Gemma3" else "Config"))
    config = config_class(**(SHAPE | changes))
    model = getattr(transformers, family + "ForCausalLM")(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.5 if parameter.dim() == 1 else 2.5 / parameter.shape[-1] ** 0.5
            one = 1.0 if "norm" in key and not family.startswith("Gemma") else 0.0
            parameter.copy_((one + scale * torch.randn_like(parameter)).half().float())
    model = model.double().eval()
    tokens = torch.randint(3, SHAPE["vocab_size"], (1, 40))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    folder = pathlib.Path(name)
    model.half().save_pretrained(folder)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    file = folder / "model.safetensors"
    weights = {key: value.contiguous() for key, value in load_file(file).items()}
    weights["golden.tokens"] = tokens[0].to(torch.int32)
    weights["golden.logits"] = logits.float()
    save_file(weights, file, metadata={"format": "pt"})
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    print(name, f"{logits.abs().max():.2f}", sum(p.numel() for p in model.parameters()))
