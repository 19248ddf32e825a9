"""Opens a model folder written by genret in transformers and compares logits.

    cargo test --release --test parity -- --ignored export   # writes $GENRET_PARITY_OUT
    python tests/parity/open_in_transformers.py $GENRET_PARITY_OUT

The folder holds a model (config.json, model.safetensors, tokenizer.json) and logits.json: token ids and the
logits genret computed. Needs torch and transformers from PyPI. Tolerance: 1e-4 absolute.
"""

import json
import pathlib
import sys

import torch
import transformers

folder = pathlib.Path(sys.argv[1])
model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
case = json.loads((folder / "logits.json").read_text())
with torch.no_grad():
    logits = model(torch.tensor([case["tokens"]])).logits[0]
difference = (logits - torch.tensor(case["logits"])).abs().max().item()
assert tokenizer.decode(case["tokens"]) == case["text"], "the tokenizer decodes otherwise"
print(f"torch {torch.__version__}, transformers {transformers.__version__}: largest difference {difference:.2e}")
sys.exit(difference >= 1e-4)
