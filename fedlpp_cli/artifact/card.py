"""`README.md` of a package: what a person who finds it should know, in the form of a Hub model card."""

from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import TrainSpec


def package_card(proxy: ProxyHeader, train: TrainSpec, *, client: str | None) -> str:
    """The text. It depends on the artifacts alone."""
    model, quantize = proxy.spec.model, proxy.spec.quantize
    length = f"{train.steps} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    base = "a private base model, in `base/` as a 4-bit copy" if model.base.private else "a public base model"
    address = f" ({model.base.hub})" if model.base.hub else ""
    front = ["library_name: peft", "tags: [fedlpp, federated-learning, lora]"]
    if model.base.hub and model.base.hub.startswith("hf://") and not model.base.hub.startswith("hf://datasets/"):
        front.append(f"base_model: {model.base.hub.removeprefix('hf://').split('@')[0]}")
    weights = "in full precision" if quantize.bits == "full" else f"rounded to {quantize.bits} bits"
    return f"""---
{chr(10).join(front)}
---

# Round {proxy.round} of federation {(proxy.federation or "")[:12]}

A package for {client or "any client"}: a LoRA adapter of rank {model.lora.rank}, {weights}, for {base}{address} of
type `{model.base.model_type}`, and the recipe for one round of training on your own data. Your data stays with you:
what goes back is the difference of the adapter before and after training.

| | |
|---|---|
| task | {model.task.kind}, at most {model.task.max_length} tokens |
| labels | {", ".join(model.task.labels) or "none"} |
| training | {length} of {train.batch_size * train.gradient_accumulation} examples, {train.optimizer} |
| learning rate | {train.learning_rate:g} |

    fedlpp verify THIS_FOLDER
    fedlpp client-train THIS_FOLDER --client NAME --data your.jsonl --out update.safetensors
"""
