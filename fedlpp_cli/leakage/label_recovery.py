"""Which classes a client has, out of its update: classes that are more frequent than the model thought rise everywhere.

The gradient of a head's bias is the mean of `p - y`, predicted minus true (iDLG, Zhao et al. 2020, arXiv 2001.02610).
What it does to the logits shows on any text, whatever the head looks like, so texts of random words will do.
"""

from collections.abc import Sequence

import numpy as np
import torch

from fedlpp_cli.evaluation.scored import Array
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.audits import LabelRecovery
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.tasks.task import Example, Task


@torch.inference_mode()
def mean_logits(adapted: AdaptedModel, task: Task, texts: Sequence[Example], batch_size: int) -> Array:
    """Mean logit of each class over the texts, float64 `(classes,)`."""
    total = np.zeros(len(task.spec.labels))
    for start in range(0, len(texts), batch_size):
        batch = task.collate(texts[start : start + batch_size])
        batch.pop("labels")
        total += adapted.logits(batch).double().sum(0).cpu().numpy()
    return total / len(texts)


def recover_labels(before: Array, after: Array, examples: Sequence[Example], n_classes: int) -> LabelRecovery:
    """Order the classes by how far their logits rose; how well that orders them by how often they are there.

    Args:
        before: mean logits of the proxy, `(classes,)`.
        after: those with the update.
        examples: what it was trained on.
        n_classes: how many classes there are.
    """
    rises = (after - before) - (after - before).mean()
    counts = np.bincount([int(example.labels) for example in examples], minlength=n_classes)  # type: ignore[arg-type]
    pairs = [(a, b) for a in range(n_classes) for b in range(n_classes) if counts[a] > counts[b]]
    right = sum(rises[a] > rises[b] for a, b in pairs)
    return LabelRecovery(
        n_classes=n_classes,
        n_pairs=len(pairs),
        in_order=six_digits(right / len(pairs)) if pairs else None,
        most_frequent=bool(counts[int(rises.argmax())] == counts.max()) if pairs else None,
    )
