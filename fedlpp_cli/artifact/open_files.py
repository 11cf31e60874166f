"""How many files this process may have open at once. Many systems start with 1024, and let a process ask for more."""

import resource
from typing import Final

from fedlpp_cli.errors import UsageError

# Standard streams, libraries' files, a ledger, a lock.
_SPARE: Final = 128


def allow_open_files(n_files: int) -> None:
    """Raise this process's limit so that `n_files` can be open at once.

    Raises:
        UsageError: the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_files + _SPARE
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UsageError(
            f"{n_files} files have to be open at once, this system allows a process {hard}",
            hint=f"ulimit -Hn {needed} as the system's administrator, or fewer clients a round",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
