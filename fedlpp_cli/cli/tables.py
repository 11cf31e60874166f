"""Results as people read them: a few lines or a table, and last where the output is."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from fedlpp_cli.cli.audit_tables import audit
from fedlpp_cli.cli.audit_update_tables import update_audit
from fedlpp_cli.cli.blocks import Block, print_block, size, train_text
from fedlpp_cli.cli.blocks import facts as _facts
from fedlpp_cli.cli.blocks import number as _number
from fedlpp_cli.cli.blocks import short as _short
from fedlpp_cli.cli.blocks import table as _table
from fedlpp_cli.cli.compute_tables import compute_text, plan_rows
from fedlpp_cli.cli.distill_tables import learned, transcript
from fedlpp_cli.cli.evaluate_tables import evaluation
from fedlpp_cli.cli.key_tables import fingerprints, keygen, signers_text
from fedlpp_cli.cli.log_tables import log
from fedlpp_cli.cli.mask_tables import base_mask_text, hidden_text, mask_text
from fedlpp_cli.cli.method_tables import method_text, methods
from fedlpp_cli.cli.plan_tables import plan
from fedlpp_cli.cli.printable import printable
from fedlpp_cli.cli.privacy_tables import budget, client_privacy_rows, privacy_text
from fedlpp_cli.cli.report_tables import report_page
from fedlpp_cli.cli.simulation_tables import simulation
from fedlpp_cli.cli.verify_tables import verify
from fedlpp_cli.records.audits import UpdateAuditReport
from fedlpp_cli.records.tensor_groups import spell_widths


def render(command: str, result: Any, *, quiet: bool) -> None:
    """Print a result of `command` on stdout."""
    if not quiet:
        for block in _RENDERERS[command](result):
            print_block(block)
    path = getattr(result, "path", None)
    if path is not None and command not in _READERS:
        print(printable(str(path)))


def _quantize_text(quantize: Any) -> str:
    if not quantize.is_rounded:
        return "full precision"
    text = f"{spell_widths(quantize.bits, quantize.groups)}, block {quantize.block}, {quantize.scale} scales"
    text += ", symmetric levels" if quantize.codebook == "symmetric" else ""
    text += {"nearest": "", "up": " rounded up", "fit": " that fit"}[quantize.scale_rounding]
    return text if quantize.rounding == "nearest" else f"{text}, {quantize.rounding} {quantize.rounding_seed}"


def _master(result: Any) -> Iterable[Block]:
    yield _facts([
        ("federation", result.federation[:12]),
        ("method", method_text(result.method)),
        ("base", f"{result.model_type}, {'private' if result.private_base else 'public'}"),
        ("adapter", f"{result.n_layers} layers, {result.n_parameters:,} parameters"),
        ("trained whole", ", ".join(result.modules_to_save)),
    ])  # fmt: skip


def _quantize(result: Any) -> Iterable[Block]:
    in_fp16, control = size(result.n_bytes_fp16), " and their control variates" if result.control_variates else ""
    yield _facts([
        ("round", result.round),
        ("proxy", f"{_quantize_text(result.quantize)}: {result.bits_per_parameter:g} bits a parameter"),
        ("rank", result.rank),
        ("mask", mask_text(result.mask, result.client, result.visible)),
        ("size", f"{size(result.n_bytes)} for {result.n_parameters:,} parameters{control}, {in_fp16} in fp16"),
        ("quantized base", None if result.base is None else f"{result.base}{base_mask_text(result.base_quantize)}"),
        *(("warning", warning) for warning in result.warnings),
        ("sha256", _short(result.sha256) or "nothing was written"),
    ])  # fmt: skip
    if result.sha256 is None:
        yield from _groups(result.groups)


def _pack(result: Any) -> Iterable[Block]:
    yield _facts([
        ("round", result.round),
        ("for", result.client or "any client"),
        ("recipe", train_text(result.train)),
        ("updates", _quantize_text(result.update)),
        ("size", f"{size(result.n_bytes)} in {result.n_files} files"),
        ("signed with", ", ".join(fingerprint[:12] for fingerprint in result.signed_with)),
        ("sha256", _short(result.sha256) or "nothing was written"),
    ])  # fmt: skip


def _client_train(result: Any) -> Iterable[Block]:
    cut = f", {result.n_cut} cut to the task's length" if result.n_cut else ""
    sent = size(result.n_bytes)
    if result.quantize.bits != "full":
        sent += f", {result.bits_per_parameter:g} bits a parameter"
    rows: list[tuple[str, object]] = [
        ("round", result.round),
        ("client", result.client),
        ("signed by", signers_text(result.signers)),
        ("data", f"{result.n_examples} examples{cut}"),
        ("training", train_text(result.train)),
        ("checkpoint", None if result.resumed_from is None else f"went on from step {result.resumed_from}"),
        ("compute", compute_text(result.compute)),
        ("privacy", privacy_text(result.privacy)),
    ]
    if result.plan is not None:
        rows += plan_rows(result.plan, result.compute)
    if result.metrics is not None:
        metrics = result.metrics
        rows += [
            ("loss", _losses(metrics)),
            ("update", f"norm {metrics.update_norm:.4g}, {sent}"),
            ("state", result.state),
        ]
    else:
        rows.append(("update", f"{result.n_parameters:,} parameters, {sent} (dry run: nothing was done)"))
    rows += [("warning", warning) for warning in result.warnings]
    yield _facts(rows)


def _losses(metrics: Any) -> str | None:
    if metrics.loss_first is None:
        return None
    return f"{metrics.loss_first:.4f} at step 1, {metrics.loss_last:.4f} at step {metrics.n_steps}"


def _aggregate(result: Any) -> Iterable[Block]:
    spec = result.aggregate
    yield _facts([
        ("round", f"{result.round - 1} -> {result.round}"),
        ("rule", f"{_rule(spec)}update rule {spec.update_rule}, server learning rate {spec.server_learning_rate:g}"),
        ("optimizer", _optimizer_text(result)),
        ("combined", _combine_text(result)),
        ("control variates", f"of {spec.n_population} clients" if spec.n_population else None),
        *client_privacy_rows(result.client_privacy),
        ("examples", result.n_examples),
        ("sha256", _short(result.sha256) or "nothing was written"),
    ])  # fmt: skip
    rows = (
        (
            one.client,
            one.rank,
            one.n_examples,
            f"{one.weight:.3f}",
            _number(one.update_norm),
            _number(one.product_norm),
            None if one.clip_factor == 1 else f"{one.clip_factor:.3g}",
            _number(one.cosine),
            None if one.loss_first is None else f"{one.loss_first:.4f}",
            None if one.loss_last is None else f"{one.loss_last:.4f}",
        )
        for one in sorted(result.clients, key=lambda one: one.client)
    )
    head = ("client", "rank", "examples", "weight", "norm", "of B A", "clipped", "cosine", "loss first", "loss last")
    yield _table(head, rows)
    if result.rejected:
        left_out = [(one.client or "?", one.code, one.path, one.reason) for one in result.rejected]
        yield _table(("left out", "code", "file", "reason"), left_out, text_columns=4)


def _rule(spec: Any) -> str:
    """What is not the plain mean."""
    clips = "clipped to the median norm, " if spec.clip_to_median else ""
    if spec.clip_norm is not None:
        clips += f"{'radius' if spec.rule == 'centered-clipping' else 'clipped to'} {spec.clip_norm:g}, "
    against = f" with {spec.n_malicious} malicious" if spec.n_malicious else ""
    return ("" if spec.rule == "mean" else f"{spec.rule}{against}, ") + clips


def _combine_text(result: Any) -> str | None:
    ways = {"factors": "factors", "svd": "products, by their best factors"}
    ways |= {"stack": "products, the rest withheld", "residual": "factors, what products say beyond them withheld"}
    way = ways[result.aggregate.combine]
    if result.withheld_norm is None:
        return None if result.aggregate.combine == "factors" else way
    return f"{way}; norm of what is withheld {result.withheld_norm:g}"


def _optimizer_text(result: Any) -> str | None:
    spec, step = result.aggregate, result.optimizer_steps
    if spec.server_optimizer == "sgd":
        return None
    text = f"{spec.server_optimizer}, step {step}" + (", which starts its state" if step == 1 else "")
    if result.median_change is None:
        return text
    beside = "" if spec.server_optimizer == "momentum" else f", tau {spec.tau:g}"
    return f"{text}; median change {result.median_change:g}{beside}"


def _export(result: Any) -> Iterable[Block]:
    yield _facts([("format", result.format), ("round", result.round), ("size", size(result.n_bytes))])


def _groups(groups: Any) -> Iterable[Block]:
    """By groups of tensors, and the sum of each part against fp16."""
    if not groups:
        return
    columns: dict[str, list[Any]] = {
        "": [group.part for group in groups],
        "group": [group.group for group in groups],
        "tensors": [group.n_tensors for group in groups],
        "parameters": [f"{group.n_parameters:,}" for group in groups],
        "size": [size(group.n_bytes) for group in groups],
        "bits": [f"{group.bits_per_parameter:.4g}" for group in groups],
        "error expected": [f"{group.expected_error:.3g}" for group in groups],
    }
    if any(group.measured_error is not None for group in groups):
        columns["measured"] = [_number(group.measured_error) or "" for group in groups]
    if any(group.n_hidden for group in groups):
        columns["hidden"] = [hidden_text(group.n_hidden, group.n_parameters) for group in groups]
    yield _table(tuple(columns), zip(*columns.values(), strict=True), text_columns=2)
    for part in sorted({group.part for group in groups}):
        of_part = [group for group in groups if group.part == part]
        n_bytes, n_parameters = (sum(getattr(group, name) for group in of_part) for name in ("n_bytes", "n_parameters"))
        yield (
            f"{part}: {8 * n_bytes / n_parameters:.4g} bits a parameter, {size(n_bytes)}, "
            f"{2 * n_parameters / n_bytes:.3g} times smaller than in fp16 ({size(2 * n_parameters)})"
        )
        n_hidden = sum(group.n_hidden for group in of_part)
        if n_hidden:
            yield f"{part}: {hidden_text(n_hidden, n_parameters)} of the weights hidden"


def _inspect(result: Any) -> Iterable[Block]:
    import json

    bits = f", {result.bits_per_parameter:g} bits a parameter" if result.bits_per_parameter else ""
    yield _facts([
        ("kind", result.kind),
        ("sha256", result.sha256),
        ("size", size(result.n_bytes)),
        ("parameters", f"{result.n_parameters:,}{bits}" if result.n_parameters else bits.removeprefix(", ")),
        ("withheld", _withheld_text(result.header)),
        ("signed by", fingerprints(result.signers)),
    ])  # fmt: skip
    if result.tensors:
        rows = ((t.name, t.dtype, list(t.shape), size(t.n_bytes)) for t in result.tensors)
        yield _table(("tensor", "dtype", "shape", "size"), rows)
    yield from _groups(result.groups)
    if result.files:
        yield _table(("file", "size", "sha256"), ((f.name, size(f.size), f.sha256[:12]) for f in result.files))
    if result.unquantized:
        yield _table(("not quantized", "dtype"), sorted(result.unquantized.items()))
    header = {key: value for key, value in result.header.items() if key != "files"}
    yield printable(json.dumps(header, indent=2, sort_keys=True), keep_lines=True)


def _withheld_text(header: dict[str, Any]) -> str | None:
    """What a master has beside the factors that clients get."""
    ranks = header["spec"].get("withheld") if header["kind"] == "master" else None
    return f"in {len(ranks)} modules, of rank {max(ranks.values())} at most" if ranks else None


def _status(result: Any) -> Iterable[Block]:
    there = [name for name in ("master", "proxy", "package") if getattr(result, f"has_{name}")]
    yield _facts([
        ("federation", _short(result.federation)),
        ("open round", result.round),
        ("there", ", ".join(there) or "nothing"),
        ("updates", ", ".join(result.updates) or "none"),
        ("missing", ", ".join(result.missing)),
        ("states", ", ".join(result.states)),
        ("next", result.next),
    ])  # fmt: skip


# Commands that write nothing: `path` says what they read.
_READERS: Final = {"inspect", "verify", "status", "log", "budget"}


def _audit(result: Any) -> Iterable[Block]:
    return update_audit(result) if isinstance(result.report, UpdateAuditReport) else audit(result)


_RENDERERS: Final[dict[str, Callable[[Any], Iterable[Block]]]] = {
    "init": _master,
    "import": _master,
    "keygen": keygen,
    "quantize": _quantize,
    "pack": _pack,
    "client-train": _client_train,
    "aggregate": _aggregate,
    "evaluate": evaluation,
    "audit": _audit,
    "distill publish": transcript,
    "distill train": learned,
    "export": _export,
    "inspect": _inspect,
    "verify": verify,
    "status": _status,
    "log": log,
    "budget": budget,
    "methods": methods,
    "simulate": simulation,
    "report": report_page,
    "plan": plan,
}
