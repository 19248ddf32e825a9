"""Writes tests/parity/adapters/: LoRA adapters made by peft and what the adapted models compute.

    python tests/parity/make_adapters.py FIXTURES    (the folder hf-parity)

Needs torch, transformers and peft; made with torch 2.13.0, transformers 5.23.0 and the peft version in
each adapter_config.json. Weights are random and not zero, so that every adapter acts.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, T5ForConditionalGeneration

FAMILIES = [
    ("llama", "llama-plain-untied", LlamaForCausalLM, "CAUSAL_LM", ["q_proj", "v_proj", "down_proj"]),
    ("t5", "t5-v1.1-gated-gelu-untied", T5ForConditionalGeneration, "SEQ_2_SEQ_LM", ["q", "v", "wo"]),
]

fixtures = Path(sys.argv[1])
here = Path(__file__).parent / "adapters"
for family, name, kind, task, targets in FAMILIES:
    torch.manual_seed(7)
    base = kind.from_pretrained(fixtures / name, dtype=torch.float32, attn_implementation="eager")
    options = LoraConfig(r=2, lora_alpha=3, lora_dropout=0.1, target_modules=targets, task_type=task)
    model = get_peft_model(base, options).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.normal_(std=0.2)
    folder = here / family
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = name
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    inputs = load_file(fixtures / name / "inputs.safetensors")
    inputs = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        output = model(**inputs)
    save_file({"loss": output.loss.reshape(1), "logits": output.logits[0].contiguous()}, folder / "expected.safetensors")
    print(family, float(output.loss), tuple(output.logits.shape))
