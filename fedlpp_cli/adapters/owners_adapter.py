"""The adapter that a master's owner computes with: the clients' one, and beside it what is withheld from them."""

from typing import TYPE_CHECKING

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.ranks import lora_of_rank
from fedlpp_cli.adapters.withheld import of_one_rank, owners_values
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor


def owners_lora(spec: MasterSpec) -> LoraSpec:
    """That of clients, with room for what is withheld; the scaling is the same."""
    lora = spec.model.lora
    return lora_of_rank(lora, lora.rank + max(spec.withheld.values(), default=0))


def owners_adapter(master: TensorFile[MasterHeader]) -> "dict[str, Tensor]":
    """Every component, float32, of the rank of `owners_lora`.

    Raises:
        ArtifactError: as `components_of`.
    """
    rank = owners_lora(master.header.spec).rank
    return of_one_rank(owners_values(master, components_of(master)), rank)
