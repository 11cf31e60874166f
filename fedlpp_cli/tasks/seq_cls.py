"""One label for a text, or for a pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from fedlpp_cli.errors import DataError
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.rows import Row, field_text, field_value, has_field
from fedlpp_cli.tasks.task import Batch, Example, padded_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class SeqCls:
    """Rows have `text`, `label` (a name of the task's labels, or its number) and sometimes `text_pair`."""

    spec: TaskSpec
    tokenizer: "PreTrainedTokenizerBase"
    columns: Mapping[str, str]

    def encode(self, row: Row) -> Example:
        """Token ids and class of a row.

        Raises:
            DataError: a field that is missing or no text, a text without any token, or an unknown label.
        """
        texts = [field_text(row, "text", self.columns)]
        if has_field(row, "text_pair", self.columns):
            texts.append(field_text(row, "text_pair", self.columns))
        encoded = self.tokenizer(*texts, truncation=False)
        if not encoded["input_ids"]:
            raise DataError(f"{row.where}: the tokenizer knows nothing of what is in field 'text'")
        was_cut = len(encoded["input_ids"]) > self.spec.max_length
        if was_cut:
            encoded = self.tokenizer(*texts, truncation=True, max_length=self.spec.max_length)
        type_ids = encoded.get("token_type_ids") if len(texts) == 2 else None
        return Example(
            tuple(encoded["input_ids"]),
            self._label(row),
            was_cut,
            type_ids=None if type_ids is None else tuple(type_ids),
        )

    def collate(self, examples: Sequence[Example]) -> Batch:
        """`input_ids` and `attention_mask` `(B, T)`, `labels` `(B,)`."""
        labels = torch.tensor([example.labels for example in examples], dtype=torch.int64)
        return padded_inputs(examples, self.tokenizer) | {"labels": labels}

    def n_targets(self, labels: Tensor) -> int:
        """Number of texts."""
        return len(labels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy of logits `(B, C)` against `labels` `(B,)`."""
        return functional.cross_entropy(logits.float(), labels, reduction="sum")

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each text, `(B,)`."""
        return functional.cross_entropy(logits.float(), labels, reduction="none")

    def _label(self, row: Row) -> int:
        value = field_value(row, "label", self.columns)
        if isinstance(value, str) and value in self.spec.labels:
            return self.spec.labels.index(value)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if type(value) is int and 0 <= value < len(self.spec.labels):
            return value
        raise DataError(f"{row.where}: label {value!r:.60}; this federation has {', '.join(self.spec.labels)}")
