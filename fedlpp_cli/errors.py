"""One error family: everything that a user can cause or cure. Bugs stay ordinary exceptions.

Each class is one cause that a caller may want to tell apart: it has an exit code (for shells and make) and a
stable name, its `code` (for `--json`). Several codes share an exit code; `docs/reference/exit-codes.md` lists
both, and a test keeps the page and this file equal.
"""

from typing import ClassVar


class FedlppError(Exception):
    """Base of the family. The message names the thing, what was found and what was needed.

    Args:
        message: one sentence, without a full stop at the end.
        hint: what to do next, a command where there is one.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(FedlppError):
    """Options that do not go together or are missing."""

    exit_code = 2
    code = "usage"


class InputError(FedlppError):
    """A file or folder that the user named is missing or cannot be read."""

    exit_code = 3
    code = "input"


class SettingsError(InputError):
    """A federation file holds an unknown key or a value out of range."""

    code = "settings"


class DataError(InputError):
    """A row of training or evaluation data is malformed; the message names file, line and field."""

    code = "data"


class ModelError(InputError):
    """A base model cannot be opened, is not the one that was agreed on, or has no layer to adapt."""

    code = "model"


class ArtifactError(FedlppError):
    """An artifact's bytes are not what the format says: damaged, cut short, or crafted."""

    exit_code = 4
    code = "artifact"


class FormatVersionError(ArtifactError):
    """The artifact was written in a format of another major version."""

    code = "artifact-version"


class OversizeError(ArtifactError):
    """A file with more bytes than anything that is expected there can have; nothing of it was read."""

    code = "artifact-size"


class DigestError(ArtifactError):
    """Bytes do not have the sha256 that a manifest or a parent states."""

    code = "artifact-digest"


class RerunError(DigestError):
    """An aggregate that was computed again from its inputs came out otherwise."""

    code = "artifact-rerun"


class SignatureError(ArtifactError):
    """A signature file is damaged, or a signature in it does not fit the package's manifest, or the transcript."""

    code = "artifact-signature"


class LineageError(FedlppError):
    """A sound artifact that does not belong here: other kind, federation, round, package or layout."""

    exit_code = 5
    code = "lineage"


class LayoutError(LineageError):
    """Tensors that are not exactly those of the federation's adapter, by name, dtype and shape."""

    code = "lineage-layout"


class ReplayError(LineageError):
    """An update of another federation, round, method or package."""

    code = "lineage-replay"


class OtherClientError(LineageError):
    """An update of one client, trained on the package of another."""

    code = "lineage-client"


class DuplicateUpdateError(LineageError):
    """Two updates of one client in one round."""

    code = "lineage-duplicate"


class CopiedUpdateError(LineageError):
    """An update that holds the very tensors of another client's."""

    code = "lineage-copied"


class GateError(FedlppError):
    """Numbers that must not be used: not finite, unchanged weights, a norm above the limit."""

    exit_code = 6
    code = "gate"


class NotFiniteError(GateError):
    """A number is NaN or infinity, in an update or in what would come out."""

    code = "gate-not-finite"


class NormError(GateError):
    """An update's norm is above what its package allows."""

    code = "gate-norm"


class UnchangedError(GateError):
    """An update is nothing but zeros."""

    code = "gate-unchanged"


class QuorumError(GateError):
    """Fewer sound updates than was asked for, or than the rule needs."""

    code = "gate-quorum"


class BudgetError(GateError):
    """Training would cost more of the data's privacy than its ledger allows."""

    code = "gate-budget"


class SecrecyError(FedlppError):
    """What was asked would put an owner's secret where clients can read it."""

    exit_code = 7
    code = "secrecy"


class SecondReleaseError(SecrecyError):
    """The same weights were released before with another rounding, format or seed; together they would tell more."""

    code = "secrecy-release"


class OutputExistsError(FedlppError):
    """The output is already there and `--force` was not given."""

    exit_code = 8
    code = "output-exists"


class OutputError(FedlppError):
    """The output cannot be written: no space, no permission."""

    exit_code = 8
    code = "output"


class MemoryLimitError(FedlppError):
    """Memory, the machine's or a GPU's, was not enough; nothing was written."""

    exit_code = 11
    code = "out-of-memory"


class HubError(FedlppError):
    """The Hub cannot be reached, or refuses; nothing was written there."""

    exit_code = 9
    code = "hub"


class PolicyError(FedlppError):
    """A package asks for more than its client's policy file allows."""

    exit_code = 10
    code = "policy"


class SignerError(PolicyError):
    """A package or a transcript is not signed by any of the keys that its reader trusts."""

    code = "policy-signer"


class LeakageError(FedlppError):
    """What was audited, or planned, tells more than was allowed.

    Args:
        message: as `FedlppError`.
        result: what was found; it is shown in front of the error.
        hint: as `FedlppError`.
    """

    exit_code = 12
    code = "leakage"

    def __init__(self, message: str, *, result: object, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.result = result


class InterruptedRunError(FedlppError):
    """Ctrl-C."""

    exit_code = 130
    code = "interrupted"
