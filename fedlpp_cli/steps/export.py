"""`export`: a master becomes what other tools open: a PEFT adapter, or a merged model."""

import shutil
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.peft_format import write_peft
from fedlpp_cli.adapters.withheld import owners_values
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.artifact.whole import whole_folder
from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.base_folder import TOKENIZER_FILES, check_base
from fedlpp_cli.models.merge import merge
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, open_tensors

ExportFormat = Literal["peft", "merged"]


class ExportResult(Record, frozen=True, kw_only=True):
    """What `export` made."""

    path: str
    format: ExportFormat
    round: int
    n_bytes: int


def export(
    master: RefLike,
    *,
    out: RefLike,
    format: ExportFormat = "peft",  # noqa: A002  # the option's name
    base: RefLike | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> ExportResult:
    """Write the full-precision adapter for use outside of the federation. It is the owner's secret like the master.

    What the master withholds is in it: such layers have a higher rank in a PEFT adapter.

    Args:
        master: which one.
        out: the folder to write, on disk or in a private repository.
        format: "peft" for `PeftModel.from_pretrained(base, out)`; "merged" for a plain transformers model.
        base: where the base lies; needed for "merged" unless the master has a Hub address.
        force: replace an existing folder.
        on_progress: told what is going on.

    Raises:
        SecrecyError: `out` is in a public repository.
        ModelError: `base` is not the federation's.
        UsageError: "merged" without a base.
    """
    with open_tensors(master, MasterHeader) as opened:
        title = f"Adapter of round {opened.header.round}"
        why = "this is the full-precision adapter"
        with store.destination(parse_ref(out), message=title, force=force, confidential=why) as place:
            on_progress("reading adapter", 0, 0)
            values = owners_values(opened, components_of(opened))
            with whole_folder(place.path, force=force) as draft:
                if format == "merged":
                    _write_merged(draft, opened, values, base, on_progress)
                else:
                    model = opened.header.spec.model
                    write_peft(draft, values, model.lora, model.task, model.base.hub)
            n_bytes = sum(path.stat().st_size for path in place.path.rglob("*") if path.is_file())
        return ExportResult(path=str(place.written), format=format, round=opened.header.round, n_bytes=n_bytes)


def _write_merged(
    draft: Path,
    master: TensorFile[MasterHeader],
    values: dict[str, Tensor],
    base: RefLike | None,
    on_progress: Progress,
) -> None:
    model = master.header.spec.model
    where = base if base is not None else model.base.hub
    if where is None:
        raise UsageError("--base is missing: a merged model needs the base's weights", hint="--base FOLDER")
    folder, _ = store.fetch_model(parse_ref(where))
    check_base(folder, model.base)
    on_progress("merging", 0, 0)
    opened = open_model(folder, model.task).model
    merge(opened, values, model.lora)
    stored = getattr(torch, str(opened.config.dtype).removeprefix("torch."), torch.float32)
    with quiet_libraries():
        opened.to(stored).save_pretrained(draft)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, draft / name)
