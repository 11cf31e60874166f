"""What a model can take: examples outside of it would stop a training midway, or an index run out of its table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedlpp_cli.errors import ModelError
from fedlpp_cli.tasks.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def max_positions(model: "PreTrainedModel") -> int | None:
    """How many tokens the model has positions for; None where it sets no bound."""
    config = model.config.get_text_config()
    limit: int | None = getattr(config, "max_position_embeddings", None)
    if limit is not None and "roberta" in config.model_type:
        limit -= (config.pad_token_id or 0) + 1  # positions start behind the padding index
    return limit


def check_fits(model: "PreTrainedModel", max_length: int, examples: Sequence[Example]) -> None:
    """Refuse a task that is longer than the model, and tokens that it does not know.

    Args:
        model: the base.
        max_length: of the task; the same for all clients, whatever their rows are.
        examples: at least one.

    Raises:
        ModelError: naming the limit.
    """
    limit = max_positions(model)
    if limit is not None and max_length > limit:
        raise ModelError(
            f"the package's max_length is {max_length}, this {model.config.model_type} model has {limit} positions",
            hint="ask the owner for a federation that was started with a smaller --max-length",
        )
    n_known = int(model.get_input_embeddings().weight.shape[0])
    largest = max(max(example.input_ids, default=0) for example in examples)
    if largest >= n_known:
        raise ModelError(
            f"the tokenizer gives token {largest}, this {model.config.model_type} model knows {n_known}",
            hint="the base model's tokenizer is that of another model; ask the owner",
        )
