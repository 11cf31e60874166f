"""Which tokens an update makes more likely everywhere: those that its rows had the model say.

A language model's head has the vocabulary for its classes. As with classes (`leakage/label_recovery.py`), what is more
frequent in the rows than the model thought rises on any text: whatever the optimizer, the rank and the number of steps.
"""

from collections.abc import Sequence

import torch

from fedlpp_cli.evaluation.scored import Array
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.tasks.task import Example, Task


@torch.inference_mode()
def mean_log_probabilities(adapted: AdaptedModel, task: Task, texts: Sequence[Example], batch_size: int) -> Array:
    """Mean over all places of the texts of each token's log-probability to come next, float64 `(V,)`."""
    total, n_places = torch.zeros((), dtype=torch.float64), 0
    for start in range(0, len(texts), batch_size):
        batch = task.collate(texts[start : start + batch_size])
        batch.pop("labels")
        is_text = batch["attention_mask"].bool()
        logits = adapted.logits(batch)
        total = total + logits[is_text.to(logits.device)].double().log_softmax(-1).sum(0).cpu()
        n_places += int(is_text.sum())
    mean: Array = (total / n_places).numpy()
    return mean
