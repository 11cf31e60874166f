"""Which of several processes this is, as torchrun and `accelerate launch` tell those that they start."""

import os
from collections.abc import Mapping
from typing import Final

_NEEDED: Final = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def process_number(environment: Mapping[str, str] = os.environ) -> int:
    """This process's number, from 0."""
    return int(environment["RANK"]) if n_processes(environment) > 1 else 0


def n_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many there are; 1 where nobody started several."""
    number = environment.get("WORLD_SIZE", "")
    if not number.isdigit() or any(not environment.get(name) for name in _NEEDED):
        return 1
    return max(1, int(number))


def device_of_process(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """Each of a machine's processes has a GPU of its own; otherwise as asked for."""
    if device == "cuda" and n_processes(environment) > 1:
        return f"cuda:{environment.get('LOCAL_RANK', '0')}"
    return device
