"""References: what is a path, what is a place on the Hub, and what is neither."""

from pathlib import Path

import pytest

from fedlpp_cli.errors import UsageError
from fedlpp_cli.refs import HubRef, parse_ref

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("text", ["a", "a/b.safetensors", "/a", "../a", "./.hidden", "a@b", "C:/a", "hf:/a/b", "~/a"])
def test_what_has_no_scheme_is_a_path(text):
    assert parse_ref(text) == Path(text)


@pytest.mark.parametrize("ref", [Path("a"), HubRef("model", "a/b", None, "")])
def test_a_reference_stays_as_it_is(ref):
    assert parse_ref(ref) is ref


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b", HubRef("model", "a/b", None, "")),
        ("hf://a/b/", HubRef("model", "a/b", None, "")),
        ("hf://models/a/b", HubRef("model", "a/b", None, "")),
        ("hf://datasets/a/b", HubRef("dataset", "a/b", None, "")),
        ("hf://a/b/c", HubRef("model", "a/b", None, "c")),
        ("hf://a/b/c/d.safetensors", HubRef("model", "a/b", None, "c/d.safetensors")),
        ("hf://a/b@main", HubRef("model", "a/b", "main", "")),
        ("hf://a/b@v1.0/c/d", HubRef("model", "a/b", "v1.0", "c/d")),
        ("hf://datasets/a/b@refs/pr/3/c", HubRef("dataset", "a/b", "refs/pr/3", "c")),
        ("hf://a/b@refs/pr/12", HubRef("model", "a/b", "refs/pr/12", "")),
        ("hf://a/b@feature%2Fx/c", HubRef("model", "a/b", "feature/x", "c")),
        (f"hf://a/b@{COMMIT}/c", HubRef("model", "a/b", COMMIT, "c")),
        ("hf://a/b/c@d.txt", HubRef("model", "a/b", None, "c@d.txt")),
        ("hf://a.b-c_d/E.f-g_h/i j", HubRef("model", "a.b-c_d/E.f-g_h", None, "i j")),
        ("hf://a/b/a..b/c.", HubRef("model", "a/b", None, "a..b/c.")),
    ],
)
def test_an_address_means_this_place(text, expected):
    assert parse_ref(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hf://",
        "hf://a",
        "hf://datasets",
        "hf://datasets/a",
        "hf://a//b",
        "hf://a/b//c",
        "hf://a/b@",
        "hf://a/b@/c",
        "hf://@main/c",
        "hf://../b",
        "hf://a/..",
        "hf://-a/b",
        "hf://a b/c",
        "hf://a/b/..",
        "hf://a/b/../c",
        "hf://a/b/c/../../../d",
        "hf://a/b/.",
        "hf://a/b/./c",
        "hf://a/b/.git/config",
        "hf://a/b/c/.hidden",
        "hf://a/b@main/../c",
        "hf://spaces/a/b",
        "hf://buckets/a/b/c",
        "hf://kernels/a/b",
        "hf://model/a/b",
        "hf://dataset/a/b",
        "HF://a/b",
        "https://huggingface.co/a/b",
        "s3://a/b",
        "file:///etc/passwd",
        "://",
        "a\0b",
        "hf://a/b/c\0d",
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(UsageError):
        parse_ref(text)


def test_a_refusal_shows_the_grammar():
    with pytest.raises(UsageError, match=r"'hf://a/b/\.\./c'") as caught:
        parse_ref("hf://a/b/../c")
    assert "hf://owner/repo[@revision][/path]" in caught.value.hint


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
@pytest.mark.parametrize("path", ["", "a", "a/b@c.txt"])
@pytest.mark.parametrize(
    "revision",
    [None, "main", COMMIT, "refs/pr/3", "refs/convert/parquet", "refs/heads/x", "feature/x", "a%2Fb", "v1@2", "a b"],
)
def test_what_is_printed_reads_back(repo_type, revision, path):
    ref = HubRef(repo_type, "owner/repo", revision, path)
    assert parse_ref(str(ref)) == ref


def test_an_address_without_oddities_is_printed_as_it_was_written():
    for text in ("hf://a/b", "hf://datasets/a/b@v1.0/c/d", "hf://a/b@refs/pr/3/c", f"hf://a/b@{COMMIT}"):
        assert str(parse_ref(text)) == text


def test_only_a_full_commit_is_pinned():
    ref = HubRef("model", "a/b", None, "")
    assert ref.at(COMMIT).is_pinned
    for revision in ("main", COMMIT[:-1], COMMIT + "0", COMMIT.upper(), COMMIT + "\n"):
        assert not ref.at(revision).is_pinned
    assert not ref.is_pinned


def test_a_place_has_a_name_and_places_below_it():
    root = HubRef("dataset", "owner/repo", "main", "")
    assert root.name == "repo"
    assert (root / "a" / "b.txt") == HubRef("dataset", "owner/repo", "main", "a/b.txt")
    assert (root / "a" / "b.txt").name == "b.txt"
