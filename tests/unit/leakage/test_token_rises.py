"""What tokens a model says on texts of random words."""

import pytest
import torch
from support.tiny import make_tokenizer

from fedlpp_cli.leakage.canaries import make_canaries
from fedlpp_cli.leakage.token_rises import mean_log_probabilities
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.targets import choose_targets
from fedlpp_cli.records.specs import LoraSpec, TaskSpec
from fedlpp_cli.tasks.kinds import task_for


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_mean_is_over_all_places_but_padding(llama, batch_size):
    model = open_model(llama, TaskSpec(max_length=32)).model
    adapted = AdaptedModel(model, LoraSpec(rank=2, target_modules=choose_targets(model, ("q_proj",), ())))
    tokenizer = make_tokenizer()
    task = task_for(TaskSpec(max_length=32), tokenizer, {})
    texts = make_canaries(task, tokenizer, {}, 7, "x")
    assert len({len(text.input_ids) for text in texts}) > 1
    with torch.no_grad():
        alone = [adapted.logits({"input_ids": torch.tensor([text.input_ids])})[0] for text in texts]
    expected = torch.cat(alone).log_softmax(-1).mean(0)
    found = mean_log_probabilities(adapted, task, texts, batch_size)
    assert found.shape == (64,)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
