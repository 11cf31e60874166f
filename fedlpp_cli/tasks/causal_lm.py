"""Next-token prediction on plain text, on completions of prompts, or on the assistant's turns of a chat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from fedlpp_cli.errors import DataError, ModelError
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.rows import Row, field_text, field_value, has_field
from fedlpp_cli.tasks.task import IGNORED, Batch, Example, pad_right, padded_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that is learnt, or only read."""

    ids: tuple[int, ...]
    is_target: bool


@dataclass(frozen=True, slots=True)
class CausalLM:
    """Rows have `text`; or `prompt` and `completion`, where the loss is on the completion; or `messages`.

    An example that is too long loses tokens of its first prompt from the left, then of its end from the right.
    """

    spec: TaskSpec
    tokenizer: "PreTrainedTokenizerBase"
    columns: Mapping[str, str]

    def encode(self, row: Row) -> Example:
        """Token ids and labels of a row.

        Raises:
            DataError: none of the three kinds, a field that is no text, or nothing to learn.
        """
        if has_field(row, "messages", self.columns):
            segments = self._chat(row)
        elif has_field(row, "prompt", self.columns) or has_field(row, "completion", self.columns):
            segments = [
                Segment(self.prompt_ids(row), is_target=False),
                Segment((*self._ids(field_text(row, "completion", self.columns)), *self._end()), is_target=True),
            ]
        else:
            ids = self._without_end(self.tokenizer(field_text(row, "text", self.columns))["input_ids"])
            segments = [Segment((*ids, *self._end()), is_target=True)]
        return self._example(segments, row)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, `(B, T)`."""
        labels = [example.labels for example in examples if isinstance(example.labels, tuple)]
        return padded_inputs(examples, self.tokenizer) | {"labels": pad_right(labels, IGNORED)}

    def n_targets(self, labels: Tensor) -> int:
        """Number of tokens that are predicted: the first of a row never is."""
        return int((labels[:, 1:] != IGNORED).sum())

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy of logits `(B, T, V)` against the next of `labels` `(B, T)`."""
        following = labels[:, 1:].reshape(-1)
        predictions = logits[:, :-1].reshape(len(following), -1).float()
        return functional.cross_entropy(predictions, following, ignore_index=IGNORED, reduction="sum")

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of each row's targets, `(B,)`."""
        following = labels[:, 1:]
        predictions = logits[:, :-1].float().transpose(1, 2)
        losses = functional.cross_entropy(predictions, following, ignore_index=IGNORED, reduction="none")
        return losses.sum(1) / (following != IGNORED).sum(1)

    def prompt_ids(self, row: Row) -> tuple[int, ...]:
        """Token ids of the prompt, with whatever the tokenizer starts a text with."""
        return self._without_end(self.tokenizer(field_text(row, "prompt", self.columns))["input_ids"])

    def _example(self, segments: list[Segment], row: Row) -> Example:
        excess = sum(len(segment.ids) for segment in segments) - self.spec.max_length
        first = segments[0]
        if excess > 0 and not first.is_target:
            kept = max(1, len(first.ids) - excess)
            segments = [Segment(first.ids[-kept:], is_target=False), *segments[1:]]
        ids = [token for segment in segments for token in segment.ids][: self.spec.max_length]
        labels = [t if segment.is_target else IGNORED for segment in segments for t in segment.ids][: len(ids)]
        if all(label == IGNORED for label in labels[1:]):
            raise DataError(f"{row.where}: nothing to learn within max_length {self.spec.max_length}")
        return Example(tuple(ids), tuple(labels), was_cut=excess > 0)

    def _chat(self, row: Row) -> list[Segment]:
        messages = self._messages(row)
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise DataError(f"{row.where}: field 'messages' has no turn of the assistant to learn")
        # The text in front of each reply and the text with it; what lies between is what the model should write.
        edges = [""]
        for turn in turns:
            edges += [self._render(messages[:turn], row, reply=True), self._render(messages[: turn + 1], row)]
        segments = []
        for number, (before, after) in enumerate(pairwise(edges)):
            if not after.startswith(before):
                raise DataError(f"{row.where}: the chat template does not render this chat turn by turn")
            segments.append(Segment(self._ids(after[len(before) :]), is_target=number % 2 == 1))
        return segments

    def _messages(self, row: Row) -> list[dict[str, str]]:
        messages = field_value(row, "messages", self.columns)
        good = isinstance(messages, list) and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in messages
        )
        if not good:
            raise DataError(f"{row.where}: field 'messages' needs a list of objects with text in 'role' and 'content'")
        return [{"role": message["role"], "content": message["content"]} for message in messages]

    def _render(self, messages: list[dict[str, str]], row: Row, *, reply: bool = False) -> str:
        if not self.tokenizer.chat_template:
            raise ModelError("the base model's tokenizer has no chat template, which rows with 'messages' need")
        from jinja2 import TemplateError

        try:
            text: Any = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
        except (TemplateError, ValueError) as error:
            raise DataError(f"{row.where}: the chat template refuses these messages ({error})") from None
        return str(text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _end(self) -> tuple[int, ...]:
        return () if self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)

    def _without_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        has_end = len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id
        return tuple(ids[:-1] if has_end else ids)
