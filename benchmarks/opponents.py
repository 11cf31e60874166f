"""Programs to measure against that must not be in the project's own environment."""

import os
import subprocess
import sys
import venv
from pathlib import Path

# Pins a typer that the project does not want.
FLOWER = "flwr==1.22.0"


def flower_python() -> str | None:
    """The Python of an environment with Flower in it, made at the first call; None where pip cannot."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedlpp-bench" / FLOWER
    python = home / "bin" / "python"
    ready = home / ".ready"
    if not ready.exists():
        print(f"installing {FLOWER} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", FLOWER, "safetensors"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
            return None
        ready.touch()
    return str(python)
