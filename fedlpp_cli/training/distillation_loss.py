"""How far a student's answers are from its teacher's (Hinton et al. 2015, arXiv 1503.02531).

Sums over answers, float32; gradients go to the student's logits.
"""

from typing import assert_never

from torch import Tensor
from torch.nn import functional

from fedlpp_cli.records.transcripts import DistillationLoss
from fedlpp_cli.tasks.soft_labels import SoftLabels, lumped


def distillation_loss(logits: Tensor, answers: SoftLabels, loss: DistillationLoss, temperature: float) -> Tensor:
    """The sum over P answers of the loss of logits `(P, V)`.

    Where a teacher tells k outcomes and the rest as one, the student's others are put together too, in front of the
    temperature: the divergence is that of both on k + 1 outcomes, and is zero where they agree on those.
    """
    values = answers.values.to(logits.device)
    match loss:
        case "kl":
            own = logits.float().log_softmax(-1)
            if answers.indices is not None:
                own = lumped(own, answers.indices.to(logits.device))
            return tempered_kl(values, own, temperature)
        case "mse":
            return (logits.float() - values).square().mean(-1).sum()
        case _:
            assert_never(loss)


def tempered_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """The sum over P answers of `T^2 KL(softmax(teacher / T) || softmax(student / T))`, in nats.

    With its square, gradients are about as large at one temperature as at another.

    Args:
        teacher: log probabilities, or scores, `(P, K)`, all finite.
        student: the same of the student, of the same device.
        temperature: T.
    """
    wanted, found = (numbers.div(temperature).log_softmax(-1) for numbers in (teacher, student))
    return temperature**2 * functional.kl_div(found, wanted, reduction="sum", log_target=True)
