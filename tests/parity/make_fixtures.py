"""Makes tiny checkpoints in the Hugging Face layout with the values that torch and transformers compute of them.

    python tests/parity/make_fixtures.py <root>/fixtures/hf-parity [seed]
    GENRET_SHARED=<root> cargo test --release --test parity

Writes the checkpoints that the parity tests read, with new random weights and inputs: config.json (keys of
transformers 4), config.v5.json, weights, inputs.safetensors, expected.safetensors, grads.safetensors (not for
bfloat16), generate.json (tries, beam searches, the log-probability of every identifier), notes.json. Eager
attention, float32, one thread. Needs torch, transformers and safetensors from PyPI.
"""

import json
import pathlib
import random
import sys

import torch
import transformers
from safetensors.torch import save_file

ROOT = pathlib.Path(sys.argv[1])
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1
VOCAB, EOS, PAD, BOS = 512, 1, 0, 2

torch.set_num_threads(1)

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 64,
    "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "tie_word_embeddings": False, "torch_dtype": "float32",
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": VOCAB, "d_model": 64, "d_kv": 16,
    "d_ff": 160, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "use_cache": True, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD,
    "feed_forward_proj": "relu", "tie_word_embeddings": True, "torch_dtype": "float32",
}


def llama3(factor, original):
    scaling = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    return {"rope_theta": 500000.0, "rope_scaling": scaling | {"original_max_position_embeddings": original}}


CHECKPOINTS = {
    "llama-plain-untied": LLAMA,
    "llama-plain-tied": LLAMA | {"tie_word_embeddings": True},
    "llama3-gqa-untied": LLAMA | llama3(8.0, 64),
    "llama3-gqa-tied": LLAMA | llama3(32.0, 32) | {"tie_word_embeddings": True},
    "llama-headdim-bias-mqa": LLAMA | {"head_dim": 32, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    "llama3-bf16-sharded": LLAMA | llama3(8.0, 64) | {"torch_dtype": "bfloat16"},
    "t5-v1.0-relu-tied": T5,
    "t5-v1.1-gated-gelu-untied": T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_heads": 3},
}


def randomise(model):
    """Weights of a size at which every part matters; gains around 1."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(1.0, 0.2)
            elif "embed_tokens" in name or name == "shared.weight":
                weight.normal_(0.0, 1.0)
            elif "relative_attention_bias" in name:
                weight.normal_(0.0, 0.7)
            elif weight.dim() == 1:
                weight.normal_(0.0, 0.1)
            else:
                weight.normal_(0.0, 1.2 * weight.shape[1] ** -0.5)


def make_model(folder, config):
    """Writes a checkpoint with random weights; gives the model as transformers reads it back."""
    t5 = config["model_type"] == "t5"
    family = transformers.T5ForConditionalGeneration if t5 else transformers.LlamaForCausalLM
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    kind = transformers.T5Config if t5 else transformers.LlamaConfig
    model = family(kind.from_pretrained(folder))
    randomise(model)
    if t5 and not config["tie_word_embeddings"]:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 64) * 0.2)
    half = config["torch_dtype"] == "bfloat16"
    if half:
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, **({"max_shard_size": "150KB"} if half else {}))
    (folder / "config.json").rename(folder / "config.v5.json")
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return family.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def padded(rows, left=False, fill=PAD):
    seq = max(map(len, rows))
    return torch.tensor([[fill] * (seq - len(r)) + r if left else r + [fill] * (seq - len(r)) for r in rows])


def expected_llama(model, rng):
    rows = [[BOS] + [rng.randrange(3, VOCAB) for _ in range(n - 1)] for n in (24, 17, 9)]
    ones = [[1] * len(r) for r in rows]
    labels = padded(rows, fill=-100)
    labels[0, :5] = -100
    inputs = {
        "input_ids": padded(rows), "attention_mask": padded(ones), "labels": labels,
        "left_input_ids": padded(rows, left=True), "left_attention_mask": padded(ones, left=True),
    }
    mask = inputs["attention_mask"]
    out = model(input_ids=inputs["input_ids"], attention_mask=mask, labels=labels, output_hidden_states=True)
    expected = {"logits": out.logits, "loss": out.loss}
    expected |= {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}
    left = inputs["left_attention_mask"]
    positions = (left.cumsum(1) - 1).clamp(min=0)
    expected["left_logits"] = model(input_ids=inputs["left_input_ids"], attention_mask=left, position_ids=positions).logits
    hidden = torch.zeros(mask.shape).masked_fill(mask == 0, torch.finfo(torch.float32).min)[:, None, None, :]
    hidden = hidden.expand(-1, 1, mask.shape[1], -1)
    both = model.model(input_ids=inputs["input_ids"], attention_mask=hidden, output_hidden_states=True)
    real, last = mask[..., None].float(), both.last_hidden_state
    logits = model.lm_head(last)
    pooled = (last * real).sum(1) / real.sum(1)
    splade = (torch.log1p(logits.relu()) * real).amax(1)
    expected |= {f"bidirectional.hidden_states.{i}": h for i, h in enumerate(both.hidden_states)}
    expected |= {
        "bidirectional.last_hidden_state": last, "bidirectional.logits": logits, "bidirectional.mean_pooled": pooled,
        "bidirectional.mean_pooled_l2": torch.nn.functional.normalize(pooled), "bidirectional.splade_max": splade,
    }
    return inputs, expected


def expected_t5(model, rng):
    rows = [[rng.randrange(3, VOCAB) for _ in range(n - 1)] + [EOS] for n in (40, 21, 7)]
    targets = [[rng.randrange(3, VOCAB) for _ in range(n - 1)] + [EOS] for n in (9, 6, 3)]
    labels = padded(targets, fill=-100)
    shifted = padded([[PAD] + t for t in targets])[:, :-1]
    mask = padded([[1] * len(r) for r in rows])
    inputs = {"input_ids": padded(rows), "attention_mask": mask, "labels": labels, "decoder_input_ids": shifted}
    out = model(input_ids=inputs["input_ids"], attention_mask=mask, labels=labels, output_hidden_states=True)
    real, last = mask[..., None].float(), out.encoder_last_hidden_state
    long = torch.tensor([[rng.randrange(3, VOCAB) for _ in range(200)]])
    expected = {
        "logits": out.logits, "loss": out.loss, "encoder_last_hidden_state": last,
        "encoder_mean_pooled": (last * real).sum(1) / real.sum(1), "long_input_ids": long,
        "long_encoder_last_hidden_state": model.encoder(input_ids=long).last_hidden_state,
    }
    for side, states in (("encoder", out.encoder_hidden_states), ("decoder", out.decoder_hidden_states)):
        expected |= {f"{side}_hidden_states.{i}": h for i, h in enumerate(states)}
    return inputs, expected


def make_tries(rng):
    def identifier():
        return [rng.randrange(10, 40) for _ in range(rng.randrange(1, 6))] + [EOS]

    big = []
    while len(big) < 60:
        new = identifier()
        if new not in big:
            big.append(new)
    prefixes = [[20, 21, EOS], [20, 21, 22, EOS], [20, 21, 22, 23, 24, EOS], [30, EOS], [30, 31, EOS], [40, 41, 42, EOS]]
    return {"big": sorted(big), "prefixes": prefixes, "three": [[11, 12, EOS], [11, 13, EOS], [14, EOS]], "one": [[50, 51, 52, EOS]]}


def prompts(inputs, t5):
    names = ("input_ids", "attention_mask") if t5 else ("left_input_ids", "left_attention_mask")
    return {"input_ids": inputs[names[0]], "attention_mask": inputs[names[1]]}


def log_prob(model, prompt, identifier, t5):
    """Summed log-probability of an identifier after a prompt, both without padding."""
    if t5:
        logits = model(input_ids=prompt, decoder_input_ids=torch.tensor([[PAD] + identifier[:-1]])).logits[0]
    else:
        logits = model(input_ids=torch.cat([prompt, torch.tensor([identifier[:-1]], dtype=torch.long)], 1)).logits[0]
    probs = logits[-len(identifier) :].double().log_softmax(-1)
    return probs[range(len(identifier)), identifier].sum().item()


def searches(model, inputs, tries, t5):
    given = prompts(inputs, t5)
    start = 1 if t5 else given["input_ids"].shape[1]
    cases = []
    for name, identifiers in tries.items():

        def allowed(_, tokens):
            done = tokens.tolist()[start:]
            following = {i[len(done)] for i in identifiers if len(i) > len(done) and i[: len(done)] == done}
            return sorted(following) or [EOS]

        for penalty in (0.0, 1.0):
            for early, longest in ((False, 8), (False, 3), (True, 8)):
                if longest == 3 and name != "big":
                    continue
                out = model.generate(
                    **given, num_beams=4, num_return_sequences=4, length_penalty=penalty, early_stopping=early,
                    max_new_tokens=longest, do_sample=False, prefix_allowed_tokens_fn=allowed, eos_token_id=EOS,
                    pad_token_id=EOS, return_dict_in_generate=True, output_scores=True,
                )
                cases.append({
                    "trie": name, "length_penalty": penalty, "early_stopping": early, "max_new_tokens": longest,
                    "num_beams": 4, "sequences": out.sequences[:, start:].view(3, 4, -1).tolist(),
                    "scores": out.sequences_scores.view(3, 4).tolist(),
                })
    return cases


def make(name, config):
    torch.manual_seed(1000 * SEED + list(CHECKPOINTS).index(name))
    rng = random.Random(f"{SEED} {name}")
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    t5 = config["model_type"] == "t5"
    model = make_model(folder, config)
    inputs, expected = (expected_t5 if t5 else expected_llama)(model, rng)
    save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "inputs.safetensors")
    save_file({k: v.detach().clone().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    if config["torch_dtype"] == "float32":
        expected["loss"].backward()
        grads = {k: v.grad.contiguous() for k, v in model.named_parameters()}
        save_file(grads, folder / "grads.safetensors")
    tries = make_tries(rng)
    with torch.no_grad():
        cases = searches(model, inputs, tries, t5)
        real = [ids[mask == 1][None] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"])]
        exhaustive = {}
        for trie, identifiers in tries.items():
            scored = [[[i, log_prob(model, prompt, i, t5)] for i in identifiers] for prompt in real]
            exhaustive[trie] = [sorted(s, key=lambda x: -x[1]) for s in scored]
    generate = {"eos_token_id": EOS, "pad_token_id": PAD, "tries": tries, "cases": cases, "exhaustive": exhaustive}
    (folder / "generate.json").write_text(json.dumps(generate))
    notes = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED, "loss": expected["loss"].item()}
    (folder / "notes.json").write_text(json.dumps(notes, indent=1))
    print(f"{name}: loss {notes['loss']:.4f}")


for name, config in CHECKPOINTS.items():
    make(name, config)
