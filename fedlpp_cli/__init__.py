"""Federated LoRA on quantized proxies (FedLPP, arXiv 2406.10976): the Python twins of the command line.

    from fedlpp_cli import init, quantize, pack, client_train, aggregate, evaluate

Each function does what the command of its name does: it reads artifacts, writes artifacts, and returns a frozen
result. The twin of `fedlpp import` is `import_adapter`, that of `fedlpp methods` is `list_methods`, those of `fedlpp
distill` are `distill_publish` and `distill_train`. Settings are records of `fedlpp_cli.records`. Nothing heavy is
imported before a function is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fedlpp_cli.version import __version__

if TYPE_CHECKING:
    from fedlpp_cli.engines.simulate import simulate
    from fedlpp_cli.planning.plan import plan
    from fedlpp_cli.steps.aggregate import aggregate
    from fedlpp_cli.steps.audit import audit
    from fedlpp_cli.steps.audit_update import audit_update
    from fedlpp_cli.steps.budget import budget
    from fedlpp_cli.steps.client_train import client_train
    from fedlpp_cli.steps.distill_publish import distill_publish
    from fedlpp_cli.steps.distill_train import distill_train
    from fedlpp_cli.steps.evaluate import evaluate
    from fedlpp_cli.steps.export import export
    from fedlpp_cli.steps.import_adapter import import_adapter
    from fedlpp_cli.steps.init import init
    from fedlpp_cli.steps.inspect import inspect
    from fedlpp_cli.steps.keygen import keygen
    from fedlpp_cli.steps.list_methods import list_methods
    from fedlpp_cli.steps.log import log
    from fedlpp_cli.steps.pack import pack
    from fedlpp_cli.steps.quantize import quantize
    from fedlpp_cli.steps.report import report
    from fedlpp_cli.steps.status import status
    from fedlpp_cli.steps.verify import verify

__all__ = [
    "__version__",
    "aggregate",
    "audit",
    "audit_update",
    "budget",
    "client_train",
    "distill_publish",
    "distill_train",
    "evaluate",
    "export",
    "import_adapter",
    "init",
    "inspect",
    "keygen",
    "list_methods",
    "log",
    "pack",
    "plan",
    "quantize",
    "report",
    "simulate",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    folder = {"simulate": "engines", "plan": "planning"}.get(name, "steps")
    return getattr(importlib.import_module(f"fedlpp_cli.{folder}.{name}"), name)
