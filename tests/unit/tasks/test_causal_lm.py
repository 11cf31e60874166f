"""What is learnt of a row, token by token."""

import pytest
import torch
from support.tiny import make_tokenizer

from fedlpp_cli.errors import DataError, ModelError
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.rows import Row
from fedlpp_cli.tasks.task import IGNORED

CHAT = (
    "{% for m in messages %}<s>{{ 'a' if m['role'] == 'assistant' else 'b' }} {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>a {% endif %}"
)


def task(*, max_length=32, chat_template=None, columns=None):
    return CausalLM(TaskSpec(max_length=max_length), make_tokenizer(chat_template=chat_template), columns or {})


def learnt(lm, fields):
    """The text that the loss is taken on."""
    example = lm.encode(Row("here", fields))
    return lm.tokenizer.decode([label for label in example.labels if label != IGNORED])


def whole(lm, fields):
    return lm.tokenizer.decode(lm.encode(Row("here", fields)).input_ids)


def test_of_plain_text_everything_is_learnt_and_then_the_end():
    assert learnt(task(), {"text": "ab cd"}) == "ab cd</s>"


def test_of_prompt_and_completion_only_the_completion_is_learnt():
    fields = {"prompt": "ab cd ", "completion": "ef gh"}
    assert learnt(task(), fields) == "ef gh</s>"
    assert whole(task(), fields) == "ab cd ef gh</s>"


def test_of_a_chat_every_turn_of_the_assistant_is_learnt():
    messages = [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "cd"},
        {"role": "user", "content": "ef"},
        {"role": "assistant", "content": "gh"},
    ]
    lm = task(chat_template=CHAT)
    assert learnt(lm, {"messages": messages}) == "cd</s>gh</s>"
    assert whole(lm, {"messages": messages}) == "<s>b ab<s>a cd</s><s>b ef<s>a gh</s>"


def test_labels_are_the_inputs_or_ignored():
    example = task().encode(Row("here", {"prompt": "ab ", "completion": "cd"}))
    assert len(example.labels) == len(example.input_ids)
    assert all(label in (IGNORED, token) for label, token in zip(example.labels, example.input_ids, strict=True))


def test_a_long_prompt_loses_its_beginning_and_the_completion_stays():
    lm = task(max_length=8)
    example = lm.encode(Row("here", {"prompt": "ab cd ef gh ij ", "completion": "kl mn"}))
    assert example.was_cut
    assert len(example.input_ids) == 8
    assert learnt(lm, {"prompt": "ab cd ef gh ij ", "completion": "kl mn"}) == "kl mn</s>"


def test_a_long_text_loses_its_end():
    lm = task(max_length=3)
    example = lm.encode(Row("here", {"text": "ab cd ef gh ij kl"}))
    assert example.was_cut
    assert lm.tokenizer.decode(example.input_ids).startswith("ab")
    assert len(example.input_ids) == 3


def test_a_batch_is_padded_on_the_right_and_padding_is_not_learnt():
    lm = task()
    batch = lm.collate([lm.encode(Row("here", {"text": text})) for text in ("ab", "ab cd ef")])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert batch["attention_mask"][1].all()


def test_the_loss_is_that_of_predicting_the_next_token():
    lm = task()
    labels = torch.tensor([[5, 6, IGNORED, 7]])
    logits = torch.randn(1, 4, 10)
    expected = -(logits[0, 0].log_softmax(-1)[6] + logits[0, 2].log_softmax(-1)[7])
    assert torch.allclose(lm.loss(logits, labels), expected)
    assert lm.n_targets(labels) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"body": "ab"}, "no field 'text'; found body"),
        ({"prompt": "ab"}, "no field 'completion'"),
        ({"prompt": 3, "completion": "ab"}, "'completion'|'prompt' is int 3"),
        ({"messages": "ab"}, "'messages' needs a list of objects"),
        ({"messages": [{"role": "user"}]}, "'messages' needs a list of objects"),
        ({"messages": [{"role": "user", "content": "ab"}]}, "no turn of the assistant"),
    ],
)
def test_a_row_of_no_kind_is_refused(fields, message):
    with pytest.raises(DataError, match=rf"here: .*({message})"):
        task(chat_template=CHAT).encode(Row("here", fields))


def test_messages_need_a_chat_template():
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    with pytest.raises(ModelError, match="no chat template"):
        task().encode(Row("here", {"messages": messages}))


def test_a_template_that_refuses_or_rewrites_earlier_turns_is_told():
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    with pytest.raises(DataError, match="refuses these messages"):
        task(chat_template="{{ raise_exception('no') }}").encode(Row("here", {"messages": messages}))
    with pytest.raises(DataError, match="turn by turn"):
        task(chat_template="{{ messages | length }}").encode(Row("here", {"messages": messages}))
