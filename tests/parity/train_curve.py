"""Writes train_curve.json: 20 losses of PyTorch's AdamW on the tiny checkpoints of the parity fixtures.

    python tests/parity/train_curve.py <folder of checkpoints> > tests/parity/train_curve.json

One fixed batch per checkpoint, its own inputs and labels, without dropout; float32, one thread. Decay is
decoupled and acts on matrices alone; gradients are clipped to a norm of 1. Needs torch, transformers and
safetensors from PyPI. tests/parity/curve.rs takes the same steps with genret's optimiser.

The learning rate is where PyTorch agrees with itself: at 1e-3 its losses of the T5 checkpoints in float64, or with
weights changed by 1e-7, are up to 0.1 from those in float32, so nothing could be compared. `noise` is the largest
difference of a loss in float64 from the one written.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

LEARNING_RATES = {"llama": 1e-3, "t5": 5e-5}
OPTIMISER = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
STEPS = 20

torch.set_num_threads(1)


def losses(folder, dtype):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    family = {"llama": transformers.LlamaForCausalLM, "t5": transformers.T5ForConditionalGeneration}[kind]
    model = family.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval().to(dtype)
    inputs = load_file(folder / "inputs.safetensors")
    batch = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "labels")}
    groups = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.dim() > 1].append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": OPTIMISER["weight_decay"]}, {"params": groups[False], "weight_decay": 0.0}],
        lr=LEARNING_RATES[kind],
        betas=(OPTIMISER["beta1"], OPTIMISER["beta2"]),
        eps=OPTIMISER["epsilon"],
    )
    found = []
    for _ in range(STEPS):
        loss = model(**batch).loss
        found.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMISER["clip_norm"])
        optimiser.step()
        optimiser.zero_grad()
    return found


def curve(folder):
    found = losses(folder, torch.float32)
    exact = losses(folder, torch.float64)
    return found, max(abs(a - b) for a, b in zip(found, exact))


folders = sorted(p.parent for p in pathlib.Path(sys.argv[1]).glob("*/grads.safetensors"))
curves = {folder.name: curve(folder) for folder in folders}
result = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "optimiser": OPTIMISER,
    "learning_rates": LEARNING_RATES,
    "noise": {name: noise for name, (_, noise) in curves.items()},
    "losses": {name: losses for name, (losses, _) in curves.items()},
}
print(json.dumps(result, indent=1))
