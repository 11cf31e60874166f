"""`README.md` of a package: what a person who finds it should know, in the form of a Hub model card."""

from typing import Final

from fedlpp_cli.records.headers import PackageSpec, ProxyHeader
from fedlpp_cli.records.methods import FactorPlan
from fedlpp_cli.records.specs import QuantSpec

_STATE: Final = """
Your update is rounded before it goes back. With `--state-out` what rounding takes from it stays with you, and with
`--state` it goes into your next update. Keep that file to yourself.
"""


_CONTROL: Final = """
Your gradients are corrected by control variates, yours and the owner's. Yours lie in the file of `--state-out`, which
this round needs; in your next round give it with `--state`. Keep that file to yourself.
"""


_MASK: Final = """
The adapter is not whole: of some layers' output features you get nothing, and they stay as in the base model. They are
not trained either. Other clients may get other features.
"""


def package_card(proxy: ProxyHeader, spec: PackageSpec) -> str:
    """The text. It depends on the artifacts alone."""
    model, train, weights = proxy.spec.model, spec.train, _precision(proxy.spec.quantize)
    length = f"{train.steps} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    base = "a private base model, in `base/` as a 4-bit copy" if model.base.private else "a public base model"
    optimizer = f"{train.optimizer}, control variates" if train.control_variates else train.optimizer
    state = " --state-out state.safetensors" if train.control_variates else ""
    address = f" ({model.base.hub})" if model.base.hub else ""
    mask = _MASK if proxy.spec.mask else ""
    front = ["library_name: peft", "tags: [fedlpp, federated-learning, lora]"]
    if model.base.hub and model.base.hub.startswith("hf://") and not model.base.hub.startswith("hf://datasets/"):
        front.append(f"base_model: {model.base.hub.removeprefix('hf://').split('@')[0]}")
    return f"""---
{chr(10).join(front)}
---

# Round {proxy.round} of federation {(proxy.federation or "")[:12]}

A package for {spec.client or "any client"}: a LoRA adapter of rank {model.lora.rank}, {weights}, for {base}{address} of
type `{model.base.model_type}`, and the recipe for one round of training on your own data. Your data stays with you:
what goes back is the difference of the adapter before and after training.

| | |
|---|---|
| task | {model.task.kind}, at most {model.task.max_length} tokens |
| labels | {", ".join(model.task.labels) or "none"} |
| training | {length} of {train.batch_size * train.gradient_accumulation} examples, {optimizer} |
| learning rate | {train.learning_rate:g} |
| update | {_precision(spec.update)} |{_trained(proxy.spec.factors)}

    fedlpp verify THIS_FOLDER
    fedlpp client-train THIS_FOLDER --client NAME --data your.jsonl --out update.safetensors{state}
{"" if spec.update.bits == "full" else _STATE}{_CONTROL if train.control_variates else ""}{mask}"""


def _trained(plan: FactorPlan) -> str:
    """A row about factors that stay; nothing where both are trained."""
    texts = {
        "A": "factors A; B stays",
        "B": "factors B; A stays",
        "steps": "factors B and A by turns",
        "modules": "of each layer one factor",
    }
    return f"\n| trained | {texts[plan.trains]} |" if plan.trains in texts else ""


def _precision(spec: QuantSpec) -> str:
    text = "in full precision" if spec.bits == "full" else f"rounded to {spec.bits} bits"
    return ", ".join([text, *(f"`{group}` {_precision(spec.of(group))}" for group in sorted(spec.groups))])
