"""How much memory a process may still take: the machine's, its control group's, its own limit's, or a GPU's."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def free_memory(device: str) -> int | None:
    """Bytes; None where the system does not tell.

    Args:
        device: "cpu", a GPU such as "cuda:1", or "split" for all GPUs together.
    """
    if device == "cpu":
        known = [*_free_of_machine(_PROC), *free_of_cgroups(_PROC, _CGROUPS), *_free_of_limit(_PROC)]
        return max(0, min(known)) if known else None
    import torch

    if device == "split":
        return sum(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return torch.cuda.mem_get_info(torch.device(device))[0]


def resident_memory() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    return _kilobytes(_PROC / "self" / "status", "VmRSS") or 0


def forget_peak() -> None:
    """Let `peak_memory` start from now, where the system can."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """The most resident bytes since `forget_peak`, or since the process began."""
    found = _kilobytes(_PROC / "self" / "status", "VmHWM")
    return found if found is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_of_cgroups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each control group above this process still allows, versions 1 and 2.

    In a container the group's folder is often mounted as the root, under a path that is not the group's: then the root
    is what counts.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            names, root = ("memory.max", "memory.current", "inactive_file"), cgroups
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = cgroups / "memory"
        else:
            continue
        folder = root / path.lstrip("/")
        for group in [folder, *folder.parents]:
            yield from _free_of_group(group, *names)
            if group == root:
                break


def _free_of_group(folder: Path, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    """Cached files count as used, but are let go when memory is needed."""
    try:
        allowed, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if allowed != "max":
        yield int(allowed) - taken + int(stat.get(reclaimable, 0))


def _free_of_machine(proc: Path) -> Iterator[int]:
    found = _kilobytes(proc / "meminfo", "MemAvailable")
    if found is not None:
        yield found


def _free_of_limit(proc: Path) -> Iterator[int]:
    """`ulimit -v`."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    taken = _kilobytes(proc / "self" / "status", "VmSize")
    if soft != resource.RLIM_INFINITY and taken is not None:
        yield soft - taken


def _kilobytes(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024 if found and os.name == "posix" else None
