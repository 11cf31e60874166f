"""The real client, in this process, with the test Hub as its only Hub."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from .hub_server import HubServer


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: HubServer, home: Path, token: str | None = None) -> None:
    """What `HubServer.environ` is for a child process, until the test ends: the client reads its variables once."""
    use_endpoint(monkeypatch, hub.url)
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(constants, name, str(home / name.lower()))
    for switch, value in {
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, switch, value)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    use_token(monkeypatch, token)


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Another Hub than before."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def use_token(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """From now on, be whoever the token speaks for, or nobody."""
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
