"""`fedlpp init`."""

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import labels_of
from fedlpp_cli.records.methods import METHOD, MethodSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import LoraSpec, TaskSpec


def init(
    out: o.SecretOutOpt,
    base: o.BaseOpt = None,
    private_base: o.PrivateBaseOpt = None,
    method: o.MethodOpt = None,
    warmup_rounds: o.WarmupRoundsOpt = None,
    task: o.TaskOpt = None,
    max_length: o.MaxLengthOpt = None,
    labels: o.LabelsOpt = None,
    rank: o.RankOpt = None,
    alpha: o.AlphaOpt = None,
    dropout: o.DropoutOpt = None,
    use_rslora: o.UseRsloraOpt = None,
    target_modules: o.TargetModulesOpt = None,
    modules_to_save: o.ModulesToSaveOpt = None,
    seed: o.SeedOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
) -> Record:
    """Start a federation: base model + task + adapter -> master of round 0.

    fedlpp init --base ./my-model --out runs/a/round-0000/master.safetensors
    fedlpp init --base hf://org/name --task seq-cls --labels yes,no --out master.safetensors
    fedlpp init --base ./my-model --method fedqsn --out master.safetensors
    fedlpp init -f federation.toml --out master.safetensors
    """
    from fedlpp_cli.steps.init import init as step

    settings = read_settings(federation)
    return step(
        settings.needed_ref(base, "base"),
        out=out,
        task=settings.resolve(TaskSpec, kind=task, max_length=max_length, labels=labels_of(labels)),
        lora=settings.resolve(
            LoraSpec,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            use_rslora=use_rslora,
            target_modules=tuple(target_modules) if target_modules else None,
            modules_to_save=tuple(modules_to_save) if modules_to_save else None,
        ),
        private_base=settings.choose(private_base, "private_base", default=False),
        method=settings.choose(method, "method", default=METHOD),
        method_options=settings.resolve(MethodSpec, warmup_rounds=warmup_rounds),
        seed=settings.choose(seed, "seed", default=0),
        force=force,
        on_progress=on_progress,
    )
