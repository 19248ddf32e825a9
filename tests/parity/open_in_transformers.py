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
t5 = json.loads((folder / "config.json").read_text())["model_type"] == "t5"
family = transformers.T5ForConditionalGeneration if t5 else transformers.LlamaForCausalLM
model = family.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
case = json.loads((folder / "logits.json").read_text())
tokens = torch.tensor([case["tokens"]])
with torch.no_grad():
    # An encoder-decoder reads the text and is asked to write it.
    logits = (model(input_ids=tokens, labels=tokens) if t5 else model(tokens)).logits[0]
difference = (logits - torch.tensor(case["logits"])).abs().max().item()
assert tokenizer.decode(case["tokens"]) == case["text"], "the tokenizer decodes otherwise"
print(f"torch {torch.__version__}, transformers {transformers.__version__}: largest difference {difference:.2e}")
sys.exit(difference >= 1e-4)
