"""The step of DP-SGD that `train.py` measures."""

from collections.abc import Callable

from train_models import BATCH, RECIPE, TASK, Loops

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.privacy.secret_stream import KEY_BYTES, SecretStream
from fedlpp_cli.training.loop import Training
from fedlpp_cli.training.private_gradient import PrivateGradient


def steps(loops: Loops, *, private: bool) -> Callable[[], object]:
    """A step of our training, on the same batches with privacy for examples as without."""
    base = open_model(loops.base, TASK, compute="bf16").model
    adapted = AdaptedModel(base, loops.lora, compute="bf16")
    adapted.load(first_values(loops.base, TASK, loops.lora, seed=0))
    gradient = None
    if private:
        stream = SecretStream(bytes(KEY_BYTES), "bench")
        gradient = PrivateGradient(
            adapted, loops.task, RECIPE, stream=stream, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=BATCH
        )
    training = Training(adapted, loops.task, loops.examples, RECIPE, labels=("bench",), gradient=gradient)
    batches = training.sampler.steps_from(0)
    base.train()
    return lambda: training._step(0, next(batches))  # noqa: SLF001  # one at a time, as `run` makes them
