"""`fedlpp distill publish` and `fedlpp distill train`."""

from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.cli import key_options as k
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import labels_of
from fedlpp_cli.errors import SettingsError, UsageError
from fedlpp_cli.records.policy import read_policy
from fedlpp_cli.records.record import Record, RecordT, read_record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import LoraSpec, TrainSpec
from fedlpp_cli.records.transcripts import DEFAULT_TOP_K, DistillationLoss, DistillSpec, PublishSpec, Targets

INPUTS = "Inputs"
ANSWERS = "Answers"

TeacherArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="The teacher: a master, a PEFT folder, or a transformers folder.", show_default=False
    ),
]
TeacherOpt = Annotated[str, typer.Option("--teacher", metavar="NAME", help="The name by which students know it.")]
TemplatesOpt = Annotated[
    Path | None,
    typer.Option(
        "--templates", metavar="FILE", help="Inputs from lines with slots.", show_default=False, rich_help_panel=INPUTS
    ),
]
RandomOpt = Annotated[bool, typer.Option("--random", help="Inputs of random tokens.", rich_help_panel=INPUTS)]
SampleOpt = Annotated[
    str | None,
    typer.Option(
        "--sample",
        metavar="REF",
        help="Inputs that a plain language model writes; one that has never seen private rows.",
        show_default=False,
        rich_help_panel=INPUTS,
    ),
]
InputsOpt = Annotated[int | None, o.of(PublishSpec, "n_inputs", "How many inputs.", panel=INPUTS)]
TopKOpt = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        help="How many tokens, or labels, of each answer are told; the others as one.",
        show_default=f"{DEFAULT_TOP_K} tokens, all labels",
        rich_help_panel=ANSWERS,
    ),
]
TargetsOpt = Annotated[
    Targets | None, o.of(PublishSpec, "targets", "scores are of everything, before a softmax.", panel=ANSWERS)
]
StudentOpt = Annotated[
    str,
    typer.Option(
        "--student",
        metavar="REF",
        help="A master, which goes on from where it is, or a base model, which gets a new adapter.",
        show_default=False,
    ),
]
TranscriptOpt = Annotated[
    list[str],
    typer.Option(
        "--transcript", metavar="REF", help="What a teacher published; repeat it for more.", show_default=False
    ),
]
PolicyOpt = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        envvar="FEDLPP_POLICY",
        help="client.toml: its signers are whose transcripts you take.",
        show_default=False,
    ),
]
TemperatureOpt = Annotated[
    float | None, o.of(DistillSpec, "temperature", "Of teacher and student, with kl.", panel=o.RECIPE)
]
LossOpt = Annotated[
    DistillationLoss | None,
    typer.Option(
        "--loss", help="How answers are compared.", show_default="mse of scores, else kl", rich_help_panel=o.RECIPE
    ),
]


def publish(
    model: TeacherArg,
    teacher: TeacherOpt,
    out: o.OutOpt,
    base: o.BaseOpt = None,
    templates: TemplatesOpt = None,
    random: RandomOpt = False,
    sample: SampleOpt = None,
    n_inputs: InputsOpt = None,
    seed: o.SeedOpt = None,
    top_k: TopKOpt = None,
    targets: TargetsOpt = None,
    task: o.TaskOpt = None,
    max_length: o.MaxLengthOpt = None,
    labels: o.LabelsOpt = None,
    batch_size: o.EvaluateBatchSizeOpt = None,
    sign: k.SignOpt = None,
    passphrase_file: k.PassphraseFileOpt = None,
    device: o.DeviceOpt = "auto",
    force: o.ForceOpt = False,
) -> Record:
    """Answer synthetic inputs: model -> transcript. No parameters travel, and no rows.

    fedlpp distill publish master.safetensors --base ./model --teacher north --templates logs.txt --out t.safetensors
    fedlpp distill publish ./model --teacher north --random --n-inputs 2000 --top-k 16 --out north.safetensors
    fedlpp distill publish ./model --teacher north --random --sign north.pem --out north.safetensors
    fedlpp distill publish ./tuned --teacher north --sample hf://org/name --out north.safetensors
    """
    from fedlpp_cli.steps.distill_publish import distill_publish as step

    if (templates is not None) + random + (sample is not None) != 1:
        raise UsageError("one of --templates, --random and --sample is needed: what inputs are made of")
    given = {"kind": task, "max_length": max_length, "labels": labels_of(labels)}
    return step(
        model,
        out=out,
        teacher=teacher,
        base=base,
        task={name: value for name, value in given.items() if value is not None},
        templates=templates,
        sample=sample,
        spec=_record(PublishSpec, n_inputs=n_inputs, seed=seed, top_k=top_k, targets=targets, batch_size=batch_size),
        sign=k.signing_keys(sign, passphrase_file),
        device=device,
        force=force,
        on_progress=on_progress,
    )


def train(
    student: StudentOpt,
    transcript: TranscriptOpt,
    out: o.SecretOutOpt,
    base: o.BaseOpt = None,
    private_base: o.PrivateBaseOpt = None,
    max_length: o.MaxLengthOpt = None,
    rank: o.RankOpt = None,
    alpha: o.AlphaOpt = None,
    dropout: o.DropoutOpt = None,
    use_rslora: o.UseRsloraOpt = None,
    target_modules: o.TargetModulesOpt = None,
    modules_to_save: o.ModulesToSaveOpt = None,
    temperature: TemperatureOpt = None,
    loss: LossOpt = None,
    steps: o.StepsOpt = None,
    epochs: o.EpochsOpt = None,
    batch_size: o.BatchSizeOpt = None,
    gradient_accumulation: o.GradientAccumulationOpt = None,
    optimizer: o.OptimizerOpt = None,
    learning_rate: o.LearningRateOpt = None,
    weight_decay: o.WeightDecayOpt = None,
    momentum: o.MomentumOpt = None,
    schedule: o.ScheduleOpt = None,
    warmup: o.WarmupOpt = None,
    max_grad_norm: o.MaxGradNormOpt = None,
    compute: o.ComputeOpt = None,
    policy: PolicyOpt = None,
    signer: k.SignerOpt = None,
    seed: o.SeedOpt = None,
    device: o.DeviceOpt = "auto",
    force: o.ForceOpt = False,
) -> Record:
    r"""Learn from teachers' answers: student + transcripts -> master of round 0.

    fedlpp distill train --student ./model --transcript north.safetensors --steps 300 --out student.safetensors
    fedlpp distill train --student master.safetensors --base ./model --transcript north.safetensors \
        --transcript own.safetensors --temperature 2 --out next.safetensors
    fedlpp distill train --student ./model --transcript north.safetensors --signer north.pub --out student.safetensors
    """
    from fedlpp_cli.steps.distill_train import distill_train as step

    settings = read_settings(None)
    adapter = {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "use_rslora": use_rslora,
        "target_modules": tuple(target_modules) if target_modules else None,
        "modules_to_save": tuple(modules_to_save) if modules_to_save else None,
    }
    is_told = any(value is not None for value in adapter.values())
    return step(
        student,
        transcript,
        out=out,
        base=base,
        train_spec=settings.resolve(
            TrainSpec,
            steps=steps,
            epochs=epochs,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            schedule=schedule,
            warmup=warmup,
            max_grad_norm=max_grad_norm,
            compute=compute,
        ),
        distill=_record(DistillSpec, temperature=temperature, loss=loss),
        lora=settings.resolve(LoraSpec, **adapter) if is_told else None,
        max_length=max_length,
        private_base=bool(private_base),
        policy=read_policy(policy),
        signers=k.trusted_keys(signer),
        seed=seed or 0,
        device=device,
        force=force,
        on_progress=on_progress,
    )


def _record(kind: type[RecordT], **options: object) -> RecordT:
    given = {name: value for name, value in options.items() if value is not None}
    return read_record(given, kind, source="options", error=SettingsError)
