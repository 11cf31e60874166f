"""Outputs that appear whole or not at all.

A file is written beside its target under a draft name (mode 0600), fsynced, renamed, and the folder fsynced; a
folder likewise, as one rename after everything in it is on disk. An exception, Ctrl-C or a kill at any moment
leaves the old output or none. A draft is locked while its writer lives, so the next writer of the same target can
tell a draft that a killed process left (it may hold an owner's secret) and removes it.
"""

import contextlib
import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fedlpp_cli.errors import OutputError, OutputExistsError

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextlib.contextmanager
def whole_file(target: Path, *, private: bool = False, force: bool = False) -> Iterator[int]:
    """Yield a descriptor to write; the file gets its name only if the body succeeds.

    Args:
        target: where the file will be. Missing folders are made.
        private: keep mode 0600; otherwise the usual mode under the umask.
        force: replace an existing file.

    Raises:
        OutputExistsError: the target exists and `force` is not set; found before the body runs, or when another
            process was faster.
        OutputError: no space, no permission.
    """
    draft = prepare(target, force=force)
    with output_errors(target):
        descriptor = _locked_draft(draft, _make_file)
    try:
        yield descriptor
        with output_errors(target):
            if not private:
                os.fchmod(descriptor, 0o666 & ~_umask())
            os.fsync(descriptor)
            _give_name(draft, target, force=force)
            fsync_folder(target.parent)
    finally:
        draft.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder (mode 0700) to fill; it gets its name only if the body succeeds.

    Raises:
        OutputExistsError: the target exists and `force` is not set.
        OutputError: no space, no permission.
    """
    draft = prepare(target, force=force)
    with output_errors(target):
        descriptor = _locked_draft(draft, _make_folder)
    try:
        yield draft
        with output_errors(target):
            _settle_tree(draft)
            _swap_folder(draft, target, force=force)
            fsync_folder(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def resumed_folder(target: Path, key: str) -> Iterator[Path]:
    """As `whole_folder`, but what is finished in it stays when the body fails, and the next writer goes on from there.

    Args:
        target: the folder.
        key: hex digits that say what is being made; another key starts anew.

    Raises:
        OutputExistsError: the target exists.
        OutputError: no space, no permission, or another process is at it.
    """
    prepare(target, force=False)
    draft = target.parent / f".{target.name}.{key[:8]}.part"
    with output_errors(target):
        draft.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{target}: another process is writing it") from None
        except OSError:
            pass  # some file systems have no locks
        yield draft
        with output_errors(target):
            _settle_tree(draft)
            _swap_folder(draft, target, force=False)
            fsync_folder(target.parent)
            for other in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
                _remove_if_dead(other)
    finally:
        os.close(descriptor)


def prepare(target: Path, *, force: bool) -> Path:
    """Make the target's folder, refuse a target that exists, sweep dead drafts; return a fresh draft name."""
    check_absent(target, force=force)
    with output_errors(target):
        made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        for folder in made:
            fsync_folder(folder.parent)
        sweep(target)
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.draft"


def sweep(target: Path) -> None:
    """Remove drafts of the target whose writers are dead."""
    # Thousands of updates lie in one folder: of the other names no more than the start is looked at.
    start, end = f".{target.name}.", re.compile(r"[0-9a-f]{8}(\.old)?\.draft")
    with os.scandir(target.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(start)]
    for name in names:
        if end.fullmatch(name.removeprefix(start)):
            _remove_if_dead(target.parent / name)


def check_absent(target: Path, *, force: bool) -> None:
    """Refuse early, before any work, what the writer would refuse at the end.

    Raises:
        OutputExistsError: the target exists and `force` is not set.
    """
    if not force and os.path.lexists(target):
        raise OutputExistsError(f"{target} exists; artifacts are not written over", hint="another --out, or --force")


@contextlib.contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError about `target`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror})") from None


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however the system splits it."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view[: 2**30], offset)
        view, offset = view[written:], offset + written


def fsync_folder(folder: Path) -> None:
    """Put a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked_draft(draft: Path, make: Callable[[Path], int]) -> int:
    """A locked descriptor of a draft that is there: another writer may sweep it before it is locked."""
    while True:
        descriptor = make(draft)
        with contextlib.suppress(OSError):  # some file systems have no locks; there, nobody sweeps
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(draft, descriptor):
            return descriptor
        os.close(descriptor)


def _make_file(draft: Path) -> int:
    return os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _make_folder(draft: Path) -> int:
    while True:
        draft.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # swept already
            return os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _give_name(draft: Path, target: Path, *, force: bool) -> None:
    if force:
        draft.replace(target)
        return
    try:
        # A link fails where the name is taken, a rename would silently win: of two writers one must lose.
        target.hardlink_to(draft)
    except FileExistsError:
        raise OutputExistsError(f"{target} was written by another process meanwhile") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        check_absent(target, force=False)
        draft.rename(target)


def _swap_folder(draft: Path, target: Path, *, force: bool) -> None:
    if force and os.path.lexists(target):
        old = draft.with_name(draft.name.replace(".draft", ".old.draft"))
        target.rename(old)
        try:
            draft.rename(target)
        finally:
            if not os.path.lexists(target):
                old.rename(target)
            elif old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        return
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            raise OutputExistsError(f"{target} was written by another process meanwhile") from None
        raise


def _settle_tree(folder: Path) -> None:
    """Usual modes under the umask, and everything on disk, deepest first."""
    umask = _umask()
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            with (Path(root) / name).open("rb") as stream:
                os.fchmod(stream.fileno(), 0o666 & ~umask)
                os.fsync(stream.fileno())
        Path(root).chmod(0o777 & ~umask)
        fsync_folder(Path(root))


def _remove_if_dead(draft: Path) -> None:
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        # Only the holder of its lock removes a draft, and only if no other has taken its place under that name.
        if not _is_at(draft, descriptor):
            return
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
