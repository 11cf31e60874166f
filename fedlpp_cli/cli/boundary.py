"""What stands around every command: `--json` and `--quiet`, one place for errors, exit codes."""

import functools
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from fedlpp_cli.cli.screen import Screen, on_screen
from fedlpp_cli.errors import FedlppError, InterruptedRunError, UsageError
from fedlpp_cli.processes import process_number
from fedlpp_cli.records.record import Record

DEBUG: Final = "FEDLPP_DEBUG"

JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the output is.")]

# typer keeps its usage errors private; this is their common base, under every typer since 0.20.
_TyperUsageError: Final[type[Exception]] = typer.BadParameter.__bases__[0]


class InternalError(FedlppError):
    """A bug of ours."""

    code = "internal"


class FedlppGroup(TyperGroup):
    """Prints usage errors as JSON too, when that was asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Note `--json` before the command's own options are parsed, which may fail."""
        ctx.obj = "--json" in args
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except _TyperUsageError as error:
            if ctx.obj is True:
                path = " ".join(ctx.command_path.split()[1:])
                screen = Screen(f"{path} {ctx.invoked_subcommand or ''}".strip() or "fedlpp", as_json=True)
                screen.show_error(UsageError(_text(error)))
                raise typer.Exit(UsageError.exit_code) from None
            raise


def command(
    app: typer.Typer, name: str, *, panel: str | None = None
) -> Callable[[Callable[..., Record]], Callable[..., Record]]:
    """Register a function that returns a result as a command of that name, the last word of which `app` knows it by.

    The command gets `--json` and `--quiet`. Its result is shown; an error of ours becomes one line and an exit code.
    """

    def register(function: Callable[..., Record]) -> Callable[..., Record]:
        @functools.wraps(function)
        def run(json: bool, quiet: bool, **options: Any) -> None:
            screen = Screen(name, as_json=json, quiet=quiet, process=process_number())
            try:
                _check_finite(options)
                with on_screen(screen):
                    result = function(**options)
                screen.show(result)
            except FedlppError as error:
                failure: FedlppError = error
            except BrokenPipeError:
                raise  # `| head` has seen enough; typer ends quietly
            except KeyboardInterrupt:
                failure = InterruptedRunError("interrupted; what was being written is not there")
            except Exception as error:  # noqa: BLE001  # the outermost boundary: a bug must not show a user's data
                failure = _internal(error)
            else:
                return
            screen.show_error(failure)
            raise typer.Exit(failure.exit_code)

        run.__signature__ = _with_common_options(function)  # type: ignore[attr-defined]
        app.command(name.rsplit(maxsplit=1)[-1], rich_help_panel=panel)(run)
        return function

    return register


def _check_finite(options: Mapping[str, object]) -> None:
    """A limit that is no number would be kept by everything; typer's ranges let it pass.

    Raises:
        UsageError: there is one.
    """
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} {value}: a finite number is needed")


def _with_common_options(function: Callable[..., Record]) -> inspect.Signature:
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [parameter.replace(kind=kind) for parameter in inspect.signature(function).parameters.values()]
    common = [
        inspect.Parameter("json", kind, default=False, annotation=JsonOpt),
        inspect.Parameter("quiet", kind, default=False, annotation=QuietOpt),
    ]
    return inspect.Signature([*own, *common])


def _text(usage_error: Exception) -> str:
    """The sentence that typer would print."""
    sentence: str = usage_error.format_message()  # type: ignore[attr-defined]
    return sentence


def _internal(error: Exception) -> InternalError:
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    return InternalError(
        f"internal error: {type(error).__name__}: {error}", hint=f"{DEBUG}=1 shows where; please report it"
    )
