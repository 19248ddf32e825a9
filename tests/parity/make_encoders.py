"""Writes tests/parity/encoders/: very small models, and what PyTorch makes of them as encoders.

    python tests/parity/make_encoders.py

A folder per model: config.json, model.safetensors, cases.json (the options of each case as genret reads them, the
texts, which passage is whose) and expected.safetensors (`<case>.queries`, `.passages`, `.scores`, `.loss` and
`.gradient.<parameter>` for every weight that the loss depends on). Weights are random. Eager attention, float32, one
thread. Made with torch 2.13.0, transformers 5.23.0.

    sparse  ln(1 + relu(max over t of logits / d_model^(1/4)))
    dense   mean over t of h / |h|, or h / |h| of the last or first token
    scores  inner products divided by the temperature; loss: cross-entropy of each query's passage, mean over queries
    mntp    cross-entropy of the tokens to restore at the positions before them, mean over tokens

A decoder alone is given a mask that hides padding and nothing else. That it does see later tokens, and that padding
on the left changes nothing, is asserted here.
"""

import json
import random
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent / "encoders"
VOCAB, WIDTH = 60, 16
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False, "torch_dtype": "float32",
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": VOCAB, "d_model": WIDTH, "d_kv": 6,
    "d_ff": 20, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16, "dropout_rate": 0.0, "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "use_cache": True, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    "feed_forward_proj": "relu", "tie_word_embeddings": True, "torch_dtype": "float32",
}
BOTH = {"t5_part": "encoder_decoder"}
MODELS = {
    "llama": (LLAMA, {
        "sparse": {}, "sparse_skip": {"skip_bos": True}, "mean": {"pooling": "mean"},
        "mean_skip": {"pooling": "mean", "skip_bos": True}, "last": {"pooling": "last"}, "cls": {"pooling": "cls"},
        "causal": {"bidirectional": False}, "mntp": None,
    }),
    "llama-tied": (LLAMA | {"tie_word_embeddings": True}, {"sparse": {}}),
    "t5": (T5, {"sparse": {}, "mean": {"pooling": "mean"}, "both_sparse": BOTH, "both_mean": BOTH | {"pooling": "mean"}}),
    "t5-untied": (T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, {
        "sparse": {}, "both_sparse": BOTH, "both_last": BOTH | {"pooling": "last"},
    }),
}

torch.set_num_threads(1)
rng = random.Random(11)


def text(length):
    return [2] + [rng.randrange(3, VOCAB) for _ in range(length - 1)]


QUERIES = [text(4), text(1)]
PASSAGES = [text(9), text(3), text(6)]
POSITIVES = [2, 0]
# Text, and the tokens to restore with their positions.
MASKED = [(text(8), [(1, 7), (4, 33), (7, 51)]), (text(5), [(3, 12)])]


def make_model(folder, config):
    """A model with random weights of a size at which every part matters, as transformers reads it back."""
    t5 = config["model_type"] == "t5"
    family = transformers.T5ForConditionalGeneration if t5 else transformers.LlamaForCausalLM
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    kind = transformers.T5Config if t5 else transformers.LlamaConfig
    model = family(kind.from_pretrained(folder))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(1.0, 0.2)
            elif "relative_attention_bias" in name or "embed_tokens" in name or name == "shared.weight":
                weight.normal_(0.0, 0.7)
            else:
                weight.normal_(0.0, 1.2 * weight.shape[1] ** -0.5)
    if t5 and not config["tie_word_embeddings"]:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, WIDTH) * 0.3)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)
    return family.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def padded(texts, left=False):
    seq = max(map(len, texts))
    rows = [[0] * (seq - len(t)) + t if left else t + [0] * (seq - len(t)) for t in texts]
    ones = [[0] * (seq - len(t)) + [1] * len(t) if left else [1] * len(t) + [0] * (seq - len(t)) for t in texts]
    return torch.tensor(rows), torch.tensor(ones)


def states_and_logits(model, texts, options, left=False):
    ids, mask = padded(texts, left)
    if model.config.model_type == "llama":
        if options.get("bidirectional", True):
            seen = torch.zeros(mask.shape).masked_fill(mask == 0, torch.finfo(torch.float32).min)
            seen = seen[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        else:
            seen = mask
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        states = model.model(input_ids=ids, attention_mask=seen, position_ids=positions).last_hidden_state
        return states, model.lm_head(states), mask
    if options.get("t5_part") == "encoder_decoder":
        shifted = torch.cat([torch.full((len(texts), 1), model.config.decoder_start_token_id), ids[:, :-1]], 1)
        out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=shifted, decoder_attention_mask=mask, output_hidden_states=True)
        return out.decoder_hidden_states[-1], out.logits, mask
    states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    tied = model.lm_head.weight is model.shared.weight
    return states, model.lm_head(states * WIDTH**-0.5 if tied else states), mask


def encode(model, texts, options, left=False):
    states, logits, mask = states_and_logits(model, texts, options, left)
    real = mask.bool()
    first, last = mask.argmax(1), mask.shape[1] - 1 - mask.flip(1).argmax(1)
    rows = torch.arange(len(texts))
    if options.get("skip_bos"):
        real = real.clone()
        real[rows[mask.sum(1) > 1], first[mask.sum(1) > 1]] = False
    normalised = torch.nn.functional.normalize(states, dim=-1)
    match options.get("pooling", "sparse"):
        case "sparse":
            largest = (logits * WIDTH**-0.25).masked_fill(~real[..., None], float("-inf")).amax(1)
            return torch.log(1 + torch.relu(largest))
        case "mean":
            return (normalised * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        case "last":
            return normalised[rows, last]
        case "cls":
            return normalised[rows, first]


def check_both_ways(model):
    one = states_and_logits(model, [[2, 5, 6, 7]], {})[0][0, 0]
    other = states_and_logits(model, [[2, 5, 6, 8]], {})[0][0, 0]
    assert (one - other).abs().max() > 1e-3
    causal = [states_and_logits(model, [t], {"bidirectional": False})[0][0, 0] for t in ([2, 5, 6, 7], [2, 5, 6, 8])]
    assert model.config.model_type == "t5" or (causal[0] == causal[1]).all()
    if model.config.model_type == "llama":
        right, left = encode(model, PASSAGES, {}), encode(model, PASSAGES, {}, left=True)
        assert (right - left).abs().max() < 1e-5


for number, (name, (config, cases)) in enumerate(MODELS.items()):
    torch.manual_seed(number + 1)
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(folder, config)
    check_both_ways(model)
    expected, described = {}, {}
    for case, options in cases.items():
        model.zero_grad()
        if options is None:
            _, logits, _ = states_and_logits(model, [t for t, _ in MASKED], {})
            pairs = [(logits[row, place - 1], token) for row, (_, restore) in enumerate(MASKED) for place, token in restore]
            loss = torch.nn.functional.cross_entropy(torch.stack([l for l, _ in pairs]), torch.tensor([t for _, t in pairs]))
        else:
            temperature = 1.0 if options.get("pooling", "sparse") == "sparse" else 0.2
            described[case] = {"options": options, "temperature": temperature}
            vectors = {"queries": encode(model, QUERIES, options), "passages": encode(model, PASSAGES, options)}
            scores = vectors["queries"] @ vectors["passages"].T / temperature
            loss = torch.nn.functional.cross_entropy(scores, torch.tensor(POSITIVES))
            expected |= {f"{case}.{k}": v for k, v in (vectors | {"scores": scores}).items()}
        loss.backward()
        expected[f"{case}.loss"] = loss.reshape(1)
        for parameter, weight in model.named_parameters():
            if weight.grad is not None and weight.grad.abs().max() > 0:
                expected[f"{case}.gradient.{parameter}"] = weight.grad.clone()
        largest = max(w.grad.abs().max().item() for w in model.parameters() if w.grad is not None)
        print(f"{name} {case}: loss {loss.item():.4f}, largest gradient {largest:.3f}")
    save_file({k: v.detach().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    texts = {"queries": QUERIES, "passages": PASSAGES, "positives": POSITIVES}
    if "mntp" in cases:
        texts["masked"] = MASKED
    (folder / "cases.json").write_text(json.dumps(texts | {"cases": described}) + "\n")
