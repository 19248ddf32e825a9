"""Writes tests/parity/prefixes.json and prefixes.safetensors: MarginMSE on prefixes of identifiers as PyTorch computes it.

    python tests/parity/make_prefixes.py

Of the four models of encoders/. Two queries, each with a positive and two negatives of two to four codes; prefixes of 1, 2 and 4
codes, decay 0.5. The score of a code is its logit or its log-probability; the loss of a stage is the sum over its lengths i of the
mean over (query, negative) of ((S_i+ - S_i-) - a_i (t+ - t-))^2, a_i = (1 - decay / i) / (1 - decay / m), m the longest of the stage;
an identifier that ends before i counts whole. Every sequence goes through the model by itself, in float64; gradients are of the last stage.
Eager attention. Made with
torch 2.13.0, transformers 5.23.0.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
LENGTHS, DECAY = [1, 2, 4], 0.5
GROUPS = [
    {"query": [2, 7, 11, 5], "ids": [[40, 44, 48, 52], [41, 44, 49, 52], [40, 45]], "teacher": [3.5, 1.25, 0.5]},
    {"query": [2, 9], "ids": [[42, 46, 50], [42, 47, 51, 53], [43, 46]], "teacher": [2.0, 2.5, -1.0]},
]


def code_scores(model, query, identifier, score):
    if model.config.is_encoder_decoder:
        read = torch.tensor([[model.config.decoder_start_token_id] + identifier[:-1]])
        logits = model(input_ids=torch.tensor([query]), decoder_input_ids=read).logits[0]
    else:
        logits = model(input_ids=torch.tensor([query + identifier[:-1]])).logits[0, len(query) - 1 :]
    if score == "log-probs":
        logits = logits.log_softmax(-1)
    return logits.gather(1, torch.tensor(identifier)[:, None])[:, 0]


def share(length, longest):
    return (1 - DECAY / length) / (1 - DECAY / longest)


def loss(model, lengths, score):
    total, pairs = 0.0, 0
    for group in GROUPS:
        scores = [code_scores(model, group["query"], identifier, score) for identifier in group["ids"]]
        for own, teacher in zip(scores[1:], group["teacher"][1:]):
            pairs += 1
            for i in lengths:
                margin = scores[0][:i].sum() - own[:i].sum()
                total = total + (margin - share(i, lengths[-1]) * (group["teacher"][0] - teacher)) ** 2
    return total / pairs


torch.set_num_threads(1)
losses, gradients = {}, {}
for name in ("llama", "llama-tied", "t5", "t5-untied"):
    family = transformers.T5ForConditionalGeneration if name.startswith("t5") else transformers.LlamaForCausalLM
    model = family.from_pretrained(HERE / "encoders" / name, attn_implementation="eager", torch_dtype=torch.float64).eval()
    for score in ("logits", "log-probs"):
        for stage in range(len(LENGTHS)):
            model.zero_grad()
            value = loss(model, LENGTHS[: stage + 1], score)
            value.backward()
            case = f"{name}.{score}.{stage}"
            losses[case] = value.item()
            print(case, round(value.item(), 6))
            for parameter, weight in model.named_parameters():
                # Of the last stage alone: it holds the others.
                if weight.grad is not None and stage + 1 == len(LENGTHS):
                    gradients[f"{case}.{parameter}"] = weight.grad.float()
save_file(gradients, HERE / "prefixes.safetensors")
everything = {"lengths": LENGTHS, "decay": DECAY, "groups": GROUPS, "losses": losses}
(HERE / "prefixes.json").write_text(json.dumps(everything, indent=1) + "\n")
