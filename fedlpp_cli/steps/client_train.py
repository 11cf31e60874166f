"""`client-train`: a package and private data become an update, and the state that the client keeps for the next one."""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.out_of_memory import memory_errors
from fedlpp_cli.processes import process_number
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.compute import ComputeChoice, ComputeSpec, TrainPlan
from fedlpp_cli.records.keys import PublicKey, Signer, signers_of
from fedlpp_cli.records.policy import ClientPolicy
from fedlpp_cli.records.privacy import ExamplePrivacy
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import QuantSpec, TrainMetrics, TrainSpec
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.steps.checkpoints import Checkpointing, Checkpoints
from fedlpp_cli.steps.client_policy import allowed_signers, check_length, check_policy, check_privacy
from fedlpp_cli.steps.client_state import read_state
from fedlpp_cli.steps.computing import choose_for, open_chosen, plan_training, told, tried
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.local_training import (
    TrainedUpdate,
    check_addressee,
    foresee_again,
    open_round,
    open_task,
    train_update,
    write_update,
)
from fedlpp_cli.steps.packages import OpenPackage, open_package
from fedlpp_cli.steps.prepared_training import prepare
from fedlpp_cli.steps.private_training import (
    PrivacySettings,
    PrivateTraining,
    check_place,
    private_batching,
)
from fedlpp_cli.tasks.data import Data, load_data
from fedlpp_cli.training.loop import Watch
from fedlpp_cli.training.processes import joined
from fedlpp_cli.training.schedule import n_steps

_CONFIDENTIAL: Final = "an update gives away what it was trained on"


class TrainResult(Record, frozen=True, kw_only=True):
    """What `client-train` made; with `dry_run` what it would do, and `sha256` and `metrics` are None.

    `bits_per_parameter` and `n_bytes` count what is sent, codes and scales. `state`: where the new state lies.
    `compute`: how it was, or would be, computed. `plan`: with `dry_run`, what it would take. `resumed_from`: the step
    of the checkpoint that it went on from, None for none. `privacy`: what the update says of it, None for none.
    `signers`: whose good signatures the package has. `warnings`: to read before sending.
    """

    path: str
    sha256: str | None
    federation: str
    round: int
    client: str
    train: TrainSpec
    quantize: QuantSpec
    n_examples: int
    n_cut: int
    n_steps: int
    n_parameters: int
    n_bytes: int
    bits_per_parameter: float
    metrics: TrainMetrics | None
    state: str | None
    compute: ComputeChoice
    plan: TrainPlan | None
    resumed_from: int | None
    privacy: ExamplePrivacy | None
    signers: tuple[Signer, ...]
    warnings: tuple[str, ...]


def client_train(  # noqa: PLR0913  # a step has as many settings as its command has options
    package: RefLike,
    *,
    client: str,
    data: RefLike,
    out: RefLike,
    base: RefLike | None = None,
    state: RefLike | None = None,
    state_out: RefLike | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    device: str = "auto",
    policy: ClientPolicy | None = None,
    signers: Sequence[PublicKey] = (),
    privacy: PrivacySettings | None = None,
    compute: ComputeSpec | None = None,
    checkpoint: Checkpointing | None = None,
    watches: Sequence[Watch] = (),
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> TrainResult:
    """Train the package's adapter on this client's data; write the difference, rounded as the package asks.

    With `state` what rounding took from earlier updates is added before it is rounded, with `state_out` what rounding
    takes from this one is kept (`training/error_feedback.py`), and with them the client's control variates where the
    package asks for those (`training/control_variates.py`). Whoever has the update has its state too: the state gets
    its name first, and a state without its update does no harm.

    Args:
        package: folder or Hub address of what the owner sent.
        client: the name by which the owner knows this client.
        data: file, saved folder or Hub data set with this client's rows.
        out: where the update goes.
        base: where a public base lies; without it the package's Hub address is used.
        state: the state that this client's last round left.
        state_out: where the new state goes: a path of the client's.
        columns: field name to column name, where the data calls them otherwise.
        split: of a data set that has several.
        device: "auto", "cpu", "cuda" or "split" over all GPUs.
        policy: what the client allows; None for anything.
        signers: one of these keys must have signed the package; of those in the policy, where it names some.
        privacy: train with noise, and charge it; None for a training as it comes.
        compute: how to compute; chosen from the machine where nothing is asked for.
        checkpoint: keep how far the training is, and go on from what was kept before.
        watches: go along with the training, such as `steps/step_logs.py`.
        force: replace an existing update, and an existing state.
        dry_run: read and check everything, say what would be done and what it takes, write nothing.
        on_progress: told what is going on.

    Raises:
        ArtifactError, DigestError, SignatureError, LineageError: a package that is not sound, or is for another
            client; a state that does not belong to it; a checkpoint that is not sound, or is of another training.
        UsageError: update, state, checkpoint and ledger in one place; control variates, and no place for the state; a
            batching that the model has no use for; what privacy for examples does not go with.
        ModelError: a base that is not the agreed one.
        DataError: a malformed row, with file and line.
        GateError: a training that went wrong; nothing is written.
        InterruptedRunError: Ctrl-C with a checkpoint, which holds all steps that were made.
        PolicyError: a package that asks for more than the policy allows, or less privacy than it asks for; a
            SignerError where nobody signed it whose packages are taken.
        BudgetError: epsilon would pass the ledger's budget.
        MemoryLimitError: memory ran out; nothing is written.
        SecrecyError: an update for a public repository, a state or a checkpoint for the Hub.
    """
    wish, limits = compute or ComputeSpec(), policy or ClientPolicy()
    trusted = allowed_signers(limits, signers)
    with _destination(parse_ref(out), client, force=force) as place, ExitStack() as files:
        state_path = None if state_out is None else _state_path(files, parse_ref(state_out), place.path, force=force)
        others: dict[str, object] = {"--out": place.path, "--state-out": state_path, "--state": state, "--data": data}
        if privacy is not None:
            check_place(privacy.ledger, others)
            others["--ledger"] = privacy.ledger
        kept = None if checkpoint is None else Checkpoints(checkpoint, others, on_progress)
        opened = _open_allowed(files, package, client, limits, trusted, is_private=privacy is not None)
        manifest = opened.folder.header
        _check_kept(opened, state_path)
        before = None if state is None else read_state(state, manifest, opened.proxy.header.spec, client=client)
        on_progress("checking base model", 0, 0)
        folder = opened.base_folder(base)
        task = open_task(opened, folder, columns or {})
        rows = load_data(parse_ref(data), task, columns=columns or {}, split=split, on_progress=on_progress)
        check_length(limits, opened, len(rows.examples))
        longest = max(len(example.input_ids) for example in rows.examples)
        choice = choose_for(opened, folder, wish, device=device, max_length=longest)
        private = prepare(opened, client, rows, before, choice, wish, kept, privacy, on_progress)
        if private is not None:
            check_privacy(limits, opened, private.privacy)
        watches = watches if kept is None else (kept.watch, *watches)
        told_of = partial(
            _result, opened, client, rows, state=state_path, resumed_from=None if kept is None else kept.resumed_from,
            private=private, trusted=trusted,
        )  # fmt: skip
        plan = plan_training(opened, folder, choice, rows.examples, client) if dry_run else None
        if plan is not None and not wish.trial_steps:
            return told_of(choice, path=str(out), plan=plan)
        share = files.enter_context(joined(choice.device, wish.micro_batch, is_base_divided=wish.shard_base))
        on_progress(told(choice), 0, 0)
        adapted, choice = open_chosen(opened, folder, choice)
        batching = wish.batching if private is None else private_batching(wish)
        local = open_round(opened, task, adapted, share=share, batching=batching)
        if plan is not None:
            on_progress("trying steps", 0, 0)
            plan = tried(plan, local, choice, rows.examples, client, wish, private)
            return told_of(choice, path=str(out), plan=plan)
        with memory_errors(choice, doing="training", batch_size=manifest.spec.train.batch_size):
            watches = () if share.rank else watches
            trained = train_update(local, client, rows.examples, before, on_progress, watches, private)
        sha256 = None if share.rank else _write(place.path, state_path, trained, opened, limits, private, force=force)
    if kept is not None:
        kept.remove()
    return told_of(choice, path=str(place.written), sha256=sha256, trained=trained)


@contextmanager
def _destination(ref: Ref, client: str, *, force: bool) -> Iterator[store.Destination]:
    """Where the update goes. Of several processes only the first has a place, and writes."""
    if process_number():
        yield store.Destination(Path(os.devnull), ref)
        return
    title = f"Update of {client}"
    with store.destination(ref, message=title, force=force, confidential=_CONFIDENTIAL) as place:
        yield place


def _open_allowed(
    files: ExitStack,
    package: RefLike,
    client: str,
    limits: ClientPolicy,
    trusted: Collection[PublicKey],
    *,
    is_private: bool,
) -> OpenPackage:
    """The package, known to be from a trusted key, for this client, and to ask for no more than it allows."""
    opened = open_package(package, signers=trusted)
    files.callback(opened.proxy.close)
    check_addressee(opened, client)
    check_policy(limits, opened)
    if not is_private:
        check_privacy(limits, opened, None)
    return opened


def _write(
    path: Path,
    state_path: Path | None,
    trained: TrainedUpdate,
    opened: OpenPackage,
    limits: ClientPolicy,
    private: PrivateTraining | None,
    *,
    force: bool,
) -> str:
    if private is None:
        return write_update(path, state_path, trained, force=force)
    trained = foresee_again(trained, private)
    check_privacy(limits, opened, private.privacy)
    return write_update(path, state_path, trained, force=force, charge=private.charge)


def _state_path(files: ExitStack, ref: Ref, update: Path, *, force: bool) -> Path:
    """Where the new state goes; what would be refused after the training is refused before it."""
    path = files.enter_context(store.destination(ref, message="", secret=True, force=force)).path
    if path.resolve() == update.resolve():
        raise UsageError(f"--out and --state-out are both {update}")
    return path


def _check_kept(package: OpenPackage, state: Path | None) -> None:
    if package.folder.header.spec.train.control_variates and state is None:
        raise UsageError(
            f"--state-out is missing: {package.name} asks for control variates, and you need yours in the next round",
            hint="--state-out STATE, and from your second round on --state with the one before",
        )


def _result(
    opened: OpenPackage,
    client: str,
    rows: Data,
    choice: ComputeChoice,
    *,
    path: str,
    sha256: str | None = None,
    trained: TrainedUpdate | None = None,
    state: Path | None = None,
    plan: TrainPlan | None = None,
    resumed_from: int | None = None,
    private: PrivateTraining | None = None,
    trusted: Collection[PublicKey] = (),
) -> TrainResult:
    shapes, manifest = update_shapes(opened.proxy.header.spec), opened.folder.header
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    n_bytes = layout_bytes(proxy_layout(shapes, manifest.spec.update))
    return TrainResult(
        path=path,
        sha256=sha256,
        federation=manifest.federation or "",
        round=manifest.round,
        client=client,
        train=manifest.spec.train,
        quantize=manifest.spec.update,
        n_examples=len(rows.examples),
        n_cut=rows.n_cut,
        n_steps=n_steps(manifest.spec.train, len(rows.examples)),
        n_parameters=n_parameters,
        n_bytes=n_bytes,
        bits_per_parameter=round(8 * n_bytes / n_parameters, 4),
        metrics=None if trained is None else trained.header.spec.metrics,
        state=None if state is None else str(state),
        compute=choice,
        plan=plan,
        resumed_from=resumed_from,
        privacy=None if private is None else private.privacy,
        signers=signers_of(opened.folder.signed_by, trusted),
        warnings=() if trained is None else trained.warnings,
    )
