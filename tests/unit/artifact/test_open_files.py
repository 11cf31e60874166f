"""Many updates are open at once: the process asks for as many as it needs."""

import subprocess
import sys

PROGRAM = """
import os, resource, sys
from fedlpp_cli.artifact.open_files import allow_open_files
from fedlpp_cli.errors import UsageError
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
try:
    allow_open_files(300)
except UsageError as error:
    print(error, "|", error.hint)
    sys.exit(error.exit_code)
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""


def run(hard):
    program = PROGRAM.format(hard=hard)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_soft_limit_is_raised():
    result = run(500)
    assert (result.returncode, result.stdout, result.stderr) == (0, "500\n", "")


def test_a_hard_limit_that_is_too_low_is_told():
    result = run(400)
    assert result.returncode == 2
    assert result.stdout.startswith(
        "300 files have to be open at once, this system allows a process 400 | ulimit -Hn 428"
    )
