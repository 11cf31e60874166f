"""The header of an artifact: what it is, where it comes from, and how to read it.

One class for each kind; the field `kind` tells them apart. `artifacts/README.md` explains the fields,
`artifacts/schema/` holds the JSON schema made from these classes.
"""

from typing import Annotated, Final, TypeVar

from msgspec import Meta

from fedlpp_cli import canonical
from fedlpp_cli.errors import ArtifactError, LineageError
from fedlpp_cli.records.audits import AuditReport, UpdateAuditReport
from fedlpp_cli.records.checkpoints import CheckpointSpec
from fedlpp_cli.records.format_version import is_newer_minor
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import (
    BOTH,
    METHOD,
    DrawnFactors,
    FactorPlan,
    MethodName,
    Score,
)
from fedlpp_cli.records.plans import PlanReport
from fedlpp_cli.records.privacy import ExamplePrivacy
from fedlpp_cli.records.record import (
    Count,
    Digest,
    FileName,
    ModuleName,
    PartyName,
    PositiveInt,
    Record,
    TensorName,
    read_record,
    to_plain,
)
from fedlpp_cli.records.reports import (  # noqa: F401 - what reports are made of is found here too
    AggregateReport,
    ClientContribution,
    EvaluateReport,
    EvaluateRow,
    RejectedUpdate,
)
from fedlpp_cli.records.specs import (
    FULL_PRECISION,
    BaseQuantSpec,
    ModelSpec,
    QuantSpec,
    TrainMetrics,
    TrainSpec,
    check_update_rounding,
)
from fedlpp_cli.records.transcripts import TranscriptSpec
from fedlpp_cli.version import __version__

FORMAT: Final = "1.1"
PRODUCER: Final = f"fedlpp {__version__}"
MAX_HEADER_BYTES: Final = 2 * 2**20

# The product of a longer one takes minutes to compute.
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**40)], ...], Meta(max_length=8)]


class Header(Record, frozen=True, kw_only=True, tag_field="kind"):
    """Fields that every kind has.

    `federation` is the sha256 of the first master; that master, which cannot contain its own, has None, and so has a
    report about models that belong to no federation, or a transcript of such a model.
    `parents` names by role the sha256 of every artifact that this one was computed from.
    """

    format: str = FORMAT
    federation: Digest | None
    round: Count
    method: MethodName = METHOD
    parents: dict[str, tuple[Digest, ...]]
    producer: Annotated[str, Meta(max_length=64)] = PRODUCER

    @property
    def kind(self) -> str:
        """master, proxy, package, update, state, checkpoint, base, transcript or report."""
        return str(self.__struct_config__.tag)

    def parent(self, role: str) -> str | None:
        """The one parent of that role, None where there is none."""
        found = self.parents.get(role, ())
        return found[0] if len(found) == 1 else None

    def __post_init__(self) -> None:
        is_first = self.kind == "master" and self.round == 0
        if is_first and self.federation is not None:
            raise ValueError("federation: the first master has null")
        if self.federation is None and not is_first and self.kind not in {"report", "transcript"}:
            raise ValueError("federation: the first master's sha256 is needed")


class MasterHeader(Header, frozen=True, kw_only=True, tag="master"):
    """Owner only: the full-precision adapter of a round."""

    spec: MasterSpec


class ProxySpec(Record, frozen=True, kw_only=True):
    """What clients see of the model, and how its tensors were rounded. `shapes`: component to shape.

    The rank in `model` is the master's, or less. With `control_variates` SCAFFOLD's lie beside the components.
    `factors`: what the round trains, and so what its updates hold. `drawn`: factors A that the proxy does not hold.
    With `mask` rows are missing; `client`: from whom, None for the same from all.
    """

    model: ModelSpec
    quantize: QuantSpec
    shapes: dict[str, Shape]
    control_variates: bool = False
    factors: FactorPlan = BOTH
    drawn: DrawnFactors | None = None
    mask: MaskSpec | None = None
    client: PartyName | None = None

    def __post_init__(self) -> None:
        if (self.client is not None) != (self.mask is not None and self.mask.client > 0):
            raise ValueError("client: a proxy is one client's if, and only if, its mask hides something from each")


class ProxyHeader(Header, frozen=True, kw_only=True, tag="proxy"):
    """The quantized adapter of a round."""

    spec: ProxySpec


class FileEntry(Record, frozen=True, kw_only=True):
    """One file of a directory artifact."""

    name: FileName
    size: Count
    sha256: Digest


class BaseArtifactSpec(Record, frozen=True, kw_only=True):
    """A private base as clients see it: bitsandbytes' layout, which transformers opens, or packed codes.

    `unquantized` lists the tensors that are not rounded (norms, biases, what the owner keeps) with their dtype;
    `shapes` those that are packed, with their shape; `masked` those of which a mask hides something, with how many of
    their weights.
    """

    quantize: BaseQuantSpec
    model_type: str
    unquantized: dict[str, str]
    shapes: dict[TensorName, Shape] = {}
    masked: dict[TensorName, PositiveInt] = {}


class BaseHeader(Header, frozen=True, kw_only=True, tag="base"):
    """The quantized image of a private base; one for all rounds of a federation."""

    spec: BaseArtifactSpec
    files: tuple[FileEntry, ...]


class PackageSpec(Record, frozen=True, kw_only=True):
    """What one client, or any, is asked to do in one round, and how the update is rounded on its way back."""

    client: PartyName | None
    train: TrainSpec
    update: QuantSpec = FULL_PRECISION

    def __post_init__(self) -> None:
        check_update_rounding(self.update)


class PackageHeader(Header, frozen=True, kw_only=True, tag="package"):
    """The manifest of what a client gets."""

    spec: PackageSpec
    files: tuple[FileEntry, ...]


class UpdateSpec(Record, frozen=True, kw_only=True):
    """Who trained, on how much, how it went, and how the tensors were rounded.

    With `control_variates` it is that of steps along corrected gradients. The change of the client's own is not in it:
    owner and client compute it from the update. `privacy`: what is promised about single rows; None for nothing.
    `scores`: of each module, where the proxy asks for them.
    """

    client: PartyName
    metrics: TrainMetrics
    quantize: QuantSpec = FULL_PRECISION
    control_variates: bool = False
    privacy: ExamplePrivacy | None = None
    scores: dict[ModuleName, Score] = {}

    def __post_init__(self) -> None:
        check_update_rounding(self.quantize)


class UpdateHeader(Header, frozen=True, kw_only=True, tag="update"):
    """What a client returns: trained adapter minus proxy."""

    spec: UpdateSpec


class StateSpec(Record, frozen=True, kw_only=True):
    """Whose it is. With `control_variates` the client's lie beside the residuals."""

    client: PartyName
    control_variates: bool = False


class StateHeader(Header, frozen=True, kw_only=True, tag="state"):
    """Client only: what it keeps between rounds. `<component>.residual`: what rounding took from its last update.

    `<component>.control`: its control variate.
    """

    spec: StateSpec


class CheckpointHeader(Header, frozen=True, kw_only=True, tag="checkpoint"):
    """Client only: a training that has stopped between two steps, and can go on."""

    spec: CheckpointSpec


class TranscriptHeader(Header, frozen=True, kw_only=True, tag="transcript"):
    """A teacher's answers to synthetic inputs: what students learn from, and all that travels."""

    spec: TranscriptSpec


class ReportHeader(Header, frozen=True, kw_only=True, tag="report"):
    """Numbers about artifacts, for people and for CI."""

    spec: AggregateReport | EvaluateReport | AuditReport | UpdateAuditReport | PlanReport


HEADERS: Final[dict[str, type[Header]]] = {
    "master": MasterHeader,
    "proxy": ProxyHeader,
    "base": BaseHeader,
    "package": PackageHeader,
    "update": UpdateHeader,
    "state": StateHeader,
    "checkpoint": CheckpointHeader,
    "transcript": TranscriptHeader,
    "report": ReportHeader,
}


HeaderT = TypeVar("HeaderT", bound=Header)
HeaderT_co = TypeVar("HeaderT_co", bound=Header, covariant=True)


def check_kind(header: Header, kind: type[HeaderT], *, source: str) -> HeaderT:
    """The header, known to be of that class.

    Raises:
        LineageError: it is of another.
    """
    if not isinstance(header, kind):
        wanted = kind.__struct_config__.tag
        raise LineageError(f"{source} is {spell_kind(header.kind)}, not {spell_kind(str(wanted))}")
    return header


def spell_kind(kind: str) -> str:
    """A kind with its article."""
    return f"an {kind}" if kind == "update" else f"a {kind}"


def encode_header(header: Header) -> bytes:
    """Canonical JSON of the header.

    Raises:
        ArtifactError: a header that nobody would read: too large, or a field out of range.
    """
    raw = canonical.encode(to_plain(header))
    decode_header(raw, source=f"a new {header.kind}")
    return raw


def decode_header(data: bytes, *, source: str) -> Header:
    """The header that `data` encodes.

    A newer minor version of the format may have fields that this one does not know: they are passed over
    here, and kept in the bytes. In this version every field is known and there is one way to write it: an unknown
    one, a missing one, or a float without its point is refused, so that equal headers have equal bytes.

    Raises:
        ArtifactError: damaged, not canonical, or a field missing or out of range.
        FormatVersionError: another major version.
    """
    raw = canonical.decode_object(data, source=source, max_bytes=MAX_HEADER_BYTES)
    newer = is_newer_minor(raw.get("format"), FORMAT, source=source)
    kind = HEADERS.get(str(raw.get("kind")))
    if kind is None:
        raise ArtifactError(f"{source}: kind is {raw.get('kind')!r:.80}, one of {', '.join(HEADERS)} is needed")
    header = read_record(raw, kind, source=source, error=ArtifactError, allow_unknown=newer)
    if header.format == FORMAT and canonical.encode(to_plain(header)) != data:
        raise ArtifactError(f"{source}: a header with fields left out, or not written as format {FORMAT} writes them")
    return header
