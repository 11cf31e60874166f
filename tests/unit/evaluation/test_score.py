"""One model over held-out examples."""

import numpy as np
import pytest

from fedlpp_cli.evaluation.score import measure
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.records.specs import LoraSpec, TaskSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.rows import Row

ROWS = [
    {"prompt": "ab cd ef gh ", "completion": "ij"},
    {"prompt": "ab ", "completion": "cd ef gh"},
    {"text": "kl mn op"},
]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("chosen", [[0], [0, 1], [0, 1, 2]], ids=["long prompt", "two prompts", "with plain text"])
def test_what_a_model_says_of_prompts_is_left_out_and_changes_nothing(request, kind, chosen, monkeypatch):
    folder, spec = request.getfixturevalue(kind), TaskSpec(max_length=32)
    task = CausalLM(spec, open_tokenizer(folder), {})
    examples = [task.encode(Row("here", ROWS[index])) for index in chosen]
    adapted = AdaptedModel(open_model(folder, spec).model, LoraSpec(target_modules=()))
    sizes = []
    logits = adapted.logits
    monkeypatch.setattr(adapted, "logits", lambda *args, **options: sizes.append(logits(*args, **options)) or sizes[-1])
    found = [measure(adapted, task, examples, 4, lambda done, total: None)]
    assert adapted.can_leave_out
    adapted.__dict__["can_leave_out"] = False
    found.append(measure(adapted, task, examples, 4, lambda done, total: None))
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-6)
    np.testing.assert_array_equal(found[0].n_targets, found[1].n_targets)
    targets = [sum(label >= 0 for label in example.labels) for example in examples]
    lengths = [len(example.input_ids) for example in examples]
    first = min(length - n for length, n in zip(lengths, targets, strict=True))
    longest = max(lengths)
    assert sizes[1].shape[1] == longest
    assert sizes[0].shape[1] == longest - max(first - 1, 0)
