"""What a master says beside its tensors: the owner's to know, and nobody else's."""

from fedlpp_cli.records.methods import FactorScores, MethodSpec
from fedlpp_cli.records.record import Count, ModuleName, PositiveFloat, PositiveInt, Record, TensorName
from fedlpp_cli.records.specs import AggregateSpec, ModelSpec, QuantSpec, WeightRole


class MasterSpec(Record, frozen=True, kw_only=True):
    """What the owner knows: the model, the seed, and how this master came to be.

    `optimizer_steps` counts those of a server optimizer, whose state lies beside the components; with
    `control_variates` SCAFFOLD's lie there too. `withheld`: by module, the rank of what was learned and is no part of
    the factors that clients get (`aggregation/combine.py`). `base_weights` says of
    a private base's tensors with two dimensions or more what they are to the model, so that the base can be rounded
    without building the model; None where nobody has looked. `next_clip_norm`: what the next round's updates are cut
    to, where that follows a quantile of their norms. `layer_scores`: what AS-LoRA chooses by; `method_options`: of the
    federation's method.
    """

    model: ModelSpec
    seed: Count
    quantize: QuantSpec | None
    aggregate: AggregateSpec | None
    optimizer_steps: Count = 0
    control_variates: bool = False
    withheld: dict[ModuleName, PositiveInt] = {}
    base_weights: dict[TensorName, WeightRole] | None = None
    next_clip_norm: PositiveFloat | None = None
    method_options: MethodSpec = MethodSpec()
    layer_scores: dict[ModuleName, FactorScores] = {}
