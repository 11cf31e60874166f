"""Folder artifacts: exactly the listed files, each with the listed bytes, or refused."""

import hashlib
import json
import os
import shutil

import pytest

from fedlpp_cli import canonical
from fedlpp_cli.artifact.folder import MANIFEST, open_folder, read_manifest, write_folder
from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.errors import ArtifactError, DigestError, FedlppError, InputError, LineageError, OutputExistsError
from fedlpp_cli.records.headers import (
    MAX_HEADER_BYTES,
    BaseArtifactSpec,
    BaseHeader,
    PackageHeader,
    PackageSpec,
    encode_header,
)
from fedlpp_cli.records.specs import BaseQuantSpec, TrainSpec

CONTENTS = {"proxy.safetensors": b"proxy bytes", "README.md": b"card bytes", "base/config.json": b"{}", "empty": b""}
LINEAGE = {"federation": "0" * 64, "round": 2, "parents": {"proxy": ("1" * 64,)}}


def package_header(files):
    return PackageHeader(**LINEAGE, spec=PackageSpec(client=None, train=TrainSpec(steps=1)), files=files)


def base_header(files):
    spec = BaseArtifactSpec(quantize=BaseQuantSpec(), model_type="llama", unquantized={})
    return BaseHeader(**LINEAGE, spec=spec, files=files)


@pytest.fixture
def package(tmp_path):
    """A sound package."""
    path = tmp_path / "package"
    write_folder(path, CONTENTS, package_header)
    return path


def manifest(package):
    return json.loads((package / MANIFEST).read_bytes())


def rewrite(package, change):
    """Change the manifest and keep it canonical, as a forger would."""
    plain = manifest(package)
    change(plain)
    (package / MANIFEST).write_bytes(canonical.encode(plain))


def check_refused(package, error=ArtifactError, match=None):
    """By both ways in, in one clean line."""
    for opener in (lambda path: open_folder(path, PackageHeader), open_any):
        with pytest.raises(error, match=match) as caught:
            opener(package)
        assert str(package) in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_folder_holds_what_was_written_and_its_manifest(package):
    for name, content in CONTENTS.items():
        assert (package / name).read_bytes() == content
    assert manifest(package)["files"] == [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(CONTENTS.items())
    ]
    found = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert found == {*CONTENTS, MANIFEST}


def test_the_identity_of_a_folder_is_the_sha256_of_its_manifest(tmp_path):
    written = write_folder(tmp_path / "a", CONTENTS, package_header)
    raw = (tmp_path / "a" / MANIFEST).read_bytes()
    opened = open_folder(tmp_path / "a", PackageHeader)
    assert written == opened.sha256 == open_any(tmp_path / "a").sha256 == hashlib.sha256(raw).hexdigest()
    assert opened.raw_header == raw == read_manifest(tmp_path / "a")
    assert encode_header(opened.header) == raw


def test_equal_contents_in_any_order_give_equal_folders(tmp_path):
    backwards = dict(reversed(CONTENTS.items()))
    assert write_folder(tmp_path / "a", CONTENTS, package_header) == write_folder(
        tmp_path / "b", backwards, package_header
    )


def test_contents_may_be_files_and_are_copied(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    source.chmod(0o400)
    write_folder(tmp_path / "a", {"x": source}, package_header)
    assert (tmp_path / "a" / "x").read_bytes() == b"bytes"
    assert (tmp_path / "a" / "x").stat().st_ino != source.stat().st_ino
    open_folder(tmp_path / "a", PackageHeader)


def test_a_source_that_is_missing_leaves_nothing(tmp_path):
    with pytest.raises(FedlppError, match="none"):
        write_folder(tmp_path / "a", {"x": tmp_path / "none"}, package_header)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/b/c", ".hidden", "a b", "", "manifest.json"])
def test_a_name_that_nobody_would_read_is_not_written(tmp_path, name):
    target = tmp_path / "deep" / "a"
    with pytest.raises((FedlppError, ValueError)):
        write_folder(target, {name: b"x"}, package_header)
    assert not target.exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_exists_is_replaced_only_by_force(package):
    with pytest.raises(OutputExistsError):
        write_folder(package, {"other": b"x"}, package_header)
    assert open_folder(package, PackageHeader).header.files[0].name == "README.md"
    write_folder(package, {"other": b"x"}, package_header, force=True)
    assert [entry.name for entry in open_folder(package, PackageHeader).header.files] == ["other"]


def test_a_folder_without_files_is_a_folder(tmp_path):
    write_folder(tmp_path / "a", {}, base_header)
    assert open_folder(tmp_path / "a", BaseHeader).header.files == ()


@pytest.mark.parametrize("name", [name for name, content in CONTENTS.items() if content])
@pytest.mark.parametrize("at", [0, -1])
def test_a_flipped_bit_in_any_file_is_found(package, name, at):
    content = bytearray(CONTENTS[name])
    content[at] ^= 1
    (package / name).write_bytes(content)
    check_refused(package, DigestError, match=f"{name}: sha256 is")


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_of_another_size_is_found_by_its_size(package, name):
    content = CONTENTS[name][:-1] or b"no longer empty"
    (package / name).write_bytes(content)
    check_refused(package, DigestError, match=f"{name}: {len(content)} bytes, the manifest says {len(CONTENTS[name])}")


@pytest.mark.parametrize("at", range(0, 700, 23))
def test_a_flipped_bit_in_the_manifest_is_refused_or_another_identity(package, at):
    raw = bytearray((package / MANIFEST).read_bytes())
    before = hashlib.sha256(raw).hexdigest()
    raw[at % len(raw)] ^= 1
    (package / MANIFEST).write_bytes(raw)
    try:
        found = open_folder(package, PackageHeader).sha256
    except FedlppError:
        return
    assert found != before


def test_swapped_contents_are_found(tmp_path):
    write_folder(tmp_path / "a", {"x": b"one", "y": b"two"}, package_header)
    (tmp_path / "a" / "x").write_bytes(b"two")
    (tmp_path / "a" / "y").write_bytes(b"one")
    check_refused(tmp_path / "a", DigestError)


@pytest.mark.parametrize(
    "name",
    ["extra", "base/extra", ".hidden", ".gitattributes", "base/.hidden", "new/extra", "new/deep/er/extra",
     "manifest.json.bak", "Manifest.json", ".cache/extra", ".cache/other/extra", "base/.cache/huggingface/extra"],
)  # fmt: skip
def test_a_file_too_many_is_found(package, name):
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_bytes(b"")
    check_refused(package, match="is not listed in the manifest")


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_too_few_is_found(package, name):
    (package / name).unlink()
    check_refused(package, match=f"{name} is listed in the manifest, but missing")


def test_a_renamed_file_is_found(package):
    (package / "empty").rename(package / "Empty")
    check_refused(package, match="mpty is ")


def test_a_folder_in_the_place_of_a_file_is_found(package):
    (package / "empty").unlink()
    (package / "empty").mkdir()
    check_refused(package, match="empty is listed in the manifest, but missing")


@pytest.mark.parametrize("name", ["proxy.safetensors", "base/config.json"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_to_the_very_same_bytes_is_refused(package, tmp_path, name, absolute):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(package / name, elsewhere)
    (package / name).symlink_to(elsewhere if absolute else os.path.relpath(elsewhere, (package / name).parent))
    check_refused(package, match="not a plain file")


def test_a_folder_that_is_a_link_is_refused(package, tmp_path):
    shutil.move(package / "base", tmp_path / "elsewhere")
    (package / "base").symlink_to(tmp_path / "elsewhere")
    check_refused(package, match="base")


def test_a_link_too_many_is_refused_even_to_nowhere(package):
    (package / "extra").symlink_to("nowhere")
    check_refused(package, match="extra is not listed")


def test_a_link_to_the_folder_itself_is_refused_and_not_followed(package):
    (package / "loop").symlink_to(".")
    check_refused(package, match="loop is not listed")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["proxy.safetensors", "extra"])
def test_a_pipe_is_refused_without_waiting(package, name):
    (package / name).unlink(missing_ok=True)
    os.mkfifo(package / name)
    check_refused(package, match="extra is not listed|not a plain file")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("README.md"),
    ],
    ids=["missing", "pipe", "folder", "endless device", "link"],
)
def test_a_manifest_that_is_no_plain_file_is_refused_without_waiting(package, make):
    (package / MANIFEST).unlink()
    make(package / MANIFEST)
    check_refused(package, InputError, match="manifest.json")


def test_a_manifest_that_is_a_link_to_the_very_same_bytes_is_refused(package, tmp_path):
    shutil.move(package / MANIFEST, tmp_path / "elsewhere")
    (package / MANIFEST).symlink_to(tmp_path / "elsewhere")
    check_refused(package, InputError, match="manifest.json")


def test_a_folder_in_a_folder_in_a_folder_is_refused_and_not_walked_into(package):
    """No listed file lies so deep, and a walk could go on until it has no breath left."""
    (package / "a" / "b" / "c").mkdir(parents=True)
    check_refused(package, match="a/b is not listed")


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "A"), ("base/x", "BASE/x"), ("base/x", "base/X")],
    ids=["equal", "case", "case of a folder", "case in a folder"],
)
def test_names_that_some_systems_take_for_one_are_refused(package, names):
    def list_both(plain):
        plain["files"] += [{"name": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()} for name in names]

    for name in names:
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_bytes(b"x")
    rewrite(package, list_both)
    check_refused(package, match="listed twice")


@pytest.mark.parametrize(
    "name",
    ["../secret", "base/../../secret", "/etc/passwd", "//etc/passwd", "..", ".", "", "base/..", "base//config.json",
     "./README.md", "README.md/", "README.md\n", "C:\\secret", "..\\secret", "a/b/c", "README.md\0"],
)  # fmt: skip
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_opened(package, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")

    def list_it(plain):
        plain["files"].append({"name": name, "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()})

    rewrite(package, list_it)
    check_refused(package, match=r"files\[4\]\.name")


def test_a_manifest_that_lists_itself_is_refused(package):
    def list_itself(plain):
        plain["files"].append({"name": MANIFEST, "size": 1, "sha256": "0" * 64})

    rewrite(package, list_itself)
    check_refused(package, match="manifest.json is listed in the manifest, but missing")


def test_a_manifest_beyond_the_limit_is_refused_unread(package):
    with (package / MANIFEST).open("ab") as stream:
        stream.truncate(2**36)
    check_refused(package, match=f"{MAX_HEADER_BYTES + 1} bytes of JSON, at most")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"not JSON", b"[" * 100_000])
def test_a_manifest_that_is_no_header_is_refused(package, content):
    (package / MANIFEST).write_bytes(content)
    check_refused(package)


def test_a_manifest_with_a_space_too_many_is_refused(package):
    (package / MANIFEST).write_text(json.dumps(manifest(package)), encoding="utf-8")
    check_refused(package, match="not canonical")


def test_a_folder_of_another_kind_is_refused_where_one_kind_is_needed(package, tmp_path):
    write_folder(tmp_path / "base", {}, base_header)
    with pytest.raises(LineageError, match="is a package, not a base"):
        open_folder(package, BaseHeader)
    with pytest.raises(LineageError, match="is a base, not a package"):
        open_folder(tmp_path / "base", PackageHeader)
    assert open_any(tmp_path / "base").header.kind == "base"


def test_a_manifest_of_a_kind_that_is_no_folder_is_refused(package, header):
    (package / MANIFEST).write_bytes(encode_header(header))
    with pytest.raises(ArtifactError, match="is not a folder"):
        open_any(package)
    with pytest.raises(LineageError, match="not a package"):
        open_folder(package, PackageHeader)


def test_what_the_hub_client_keeps_beside_a_download_is_not_part_of_it(package):
    place = package / ".cache" / "huggingface" / "download"
    place.mkdir(parents=True)
    (place / "README.md.metadata").write_bytes(b"x")
    (package / ".cache" / "huggingface" / ".gitignore").write_bytes(b"*")
    open_folder(package, PackageHeader)


def test_a_folder_may_be_reached_through_a_link(package, tmp_path):
    (tmp_path / "link").symlink_to(package)
    assert open_folder(tmp_path / "link", PackageHeader).sha256 == open_folder(package, PackageHeader).sha256


@pytest.mark.parametrize("name", ["none", "file", "empty"])
def test_what_is_no_folder_artifact_is_refused(tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no package or base artifact lies there"):
        open_folder(tmp_path / name, PackageHeader)


def test_a_newer_minor_version_keeps_what_we_do_not_know(package):
    def from_the_future(plain):
        plain["format"] = "1.7"
        plain["files"][0]["mode"] = 420
        plain["signature"] = {"by": "someone"}

    rewrite(package, from_the_future)
    opened = open_folder(package, PackageHeader)
    assert b'"signature"' in opened.raw_header
    assert opened.sha256 == hashlib.sha256(opened.raw_header).hexdigest()
