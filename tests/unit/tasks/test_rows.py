"""Reading rows, and saying precisely what is wrong with one."""

import datasets
import pytest

from fedlpp_cli.errors import DataError, InputError
from fedlpp_cli.tasks.rows import field_text, field_value, read_rows

ROWS = [{"text": "ab", "n": "1"}, {"text": "cd, ef\nnext line", "n": "2"}, {"text": "ü—漢", "n": "3"}]


def write(folder, kind):
    data = datasets.Dataset.from_list(ROWS)
    path = folder / f"rows.{kind}"
    match kind:
        case "jsonl":
            data.to_json(path)
        case "csv":
            data.to_csv(path, index=False)
        case "parquet":
            data.to_parquet(path)
        case "saved":
            data.save_to_disk(path)
        case "saved with splits":
            datasets.DatasetDict({"train": data, "test": data.select([2])}).save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved", "saved with splits"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    assert [dict(row.fields) for row in read_rows(write(tmp_path, kind))] == ROWS


def test_a_split_can_be_chosen(tmp_path):
    path = write(tmp_path, "saved with splits")
    assert [row.fields["n"] for row in read_rows(path, split="test")] == ["3"]
    with pytest.raises(InputError, match="no split 'dev'; there are train, test"):
        list(read_rows(path, split="dev"))


def test_rows_know_where_they_stand(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "ab"}\n\n{"text": "cd"}\n')
    assert [row.where for row in read_rows(path)] == ["notes.jsonl, line 1", "notes.jsonl, line 3"]


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    for name, text in (("a.jsonl", '{"text": "ab"}\n'), ("a.csv", "text\nab\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [dict(row.fields) for row in read_rows(tmp_path / name)] == [{"text": "ab"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "ab"}\n{"text": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"text": "ab"}\n[1, 2]\n', r"a.jsonl, line 2: list \[1, 2\], an object with named fields"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
        ("a.csv", b"text,label\nab,x\ncd\n", "a.csv, line 3: another number of cells than the 2 names"),
        ("a.csv", b"text,label\nab,x,y\n", "a.csv, line 2: another number of cells"),
        ("a.csv", b'text,label\n"ab,x\n', "a.csv, line 2: not CSV"),
        ("a.csv", b"text,label\n\xff,x\n", "a.csv, line .: not CSV"),
        ("a.parquet", b"PAR1 not really", "a.parquet, after row 0: not parquet"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / name))


def test_files_that_are_missing_or_of_unknown_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such data file"):
        read_rows(tmp_path / "a.jsonl")
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(InputError, match=r"cannot tell how to read '.xlsx'; read are .jsonl, .csv"):
        read_rows(tmp_path / "a.xlsx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not a folder saved by datasets"):
        list(read_rows(tmp_path / "folder"))


def row(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text + "\n")
    return next(read_rows(tmp_path / "a.jsonl"))


def test_columns_may_have_other_names(tmp_path):
    found = row(tmp_path, '{"body": "ab", "stars": 3}')
    assert field_text(found, "text", {"text": "body"}) == "ab"
    assert field_value(found, "label", {"label": "stars"}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"body": "ab"}', "a.jsonl, line 1: no field 'text'; found body"),
        ("{}", "no field 'text'; found nothing"),
        ('{"text": 5}', "field 'text' is int 5, some text is needed"),
        ('{"text": null}', "field 'text' is null, some text is needed"),
        ('{"text": ""}', "field 'text' is empty, some text is needed"),
    ],
)
def test_a_field_that_is_no_text_is_told_with_what_was_found(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        field_text(row(tmp_path, text), "text", {})


def test_a_missing_column_is_told_with_both_names(tmp_path):
    with pytest.raises(DataError, match=r"no field 'text' \(column 'body'\); found text") as caught:
        field_text(row(tmp_path, '{"text": "ab"}'), "text", {"text": "body"})
    assert "--column text=NAME" in caught.value.hint
