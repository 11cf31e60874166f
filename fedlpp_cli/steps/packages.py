"""A package that has been opened: its manifest and the proxy in it, and the model that they belong to."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fedlpp_cli.adapters.proxy_tensors import check_proxy
from fedlpp_cli.adapters.trained import check_plan
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import BASE, PROXY, FolderArtifact, open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LineageError
from fedlpp_cli.records.headers import BaseHeader, PackageHeader, ProxyHeader
from fedlpp_cli.records.keys import PublicKey
from fedlpp_cli.records.methods import BOTH
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, check_parent, public_base_folder


@dataclass(frozen=True, slots=True)
class OpenPackage:
    """A verified package with its proxy open; `proxy.close()` when done."""

    folder: FolderArtifact[PackageHeader]
    proxy: TensorFile[ProxyHeader]

    @property
    def name(self) -> str:
        """What to call it in an error."""
        return str(self.folder.path)

    def base_folder(self, base: RefLike | None) -> Path:
        """The verified folder of the base model.

        Args:
            base: where the caller has a public base; a private one is in the package.

        Raises:
            ModelError, UsageError: as `public_base_folder`.
            ArtifactError: a private base that is not safe to open.
        """
        spec = self.proxy.header.spec.model.base
        return self._private_base() if spec.private else public_base_folder(spec, base)

    def _private_base(self) -> Path:
        from fedlpp_cli.models.foreign_base import check_foreign_base

        base = open_folder(self.folder.path / BASE, BaseHeader)
        check_parent(self.folder.header, "base", base.sha256, source=self.name, parent=str(base.path))
        if base.header.federation != self.folder.header.federation:
            raise LineageError(f"{base.path}: belongs to another federation than {self.name}")
        check_foreign_base(base)
        return base.path


def check_asked(package: PackageHeader, proxy: ProxyHeader, *, source: str) -> None:
    """Refuse a package with control variates that nobody would use, factors that do not all move, or others' masks.

    Raises:
        LineageError: the proxy holds control variates, the recipe does not ask for them; the recipe asks for them, and
            the proxy does not train both factors, or has masks; a plan that is not about the proxy's modules; the proxy
            is another client's.
    """
    check_plan(proxy.spec.factors, proxy.spec.shapes, source=source)
    if package.spec.train.control_variates and proxy.spec.factors != BOTH:
        raise LineageError(f"{source}: its recipe asks for control variates, its proxy does not train both factors")
    if proxy.spec.client not in (None, package.spec.client):
        raise LineageError(f"{source}: its proxy is for client {proxy.spec.client!r}, not {package.spec.client!r}")
    if proxy.spec.mask is not None and package.spec.train.control_variates:
        raise LineageError(f"{source}: its proxy has masks, which do not go with control variates")
    if proxy.spec.control_variates and not package.spec.train.control_variates:
        raise LineageError(f"{source}: its proxy holds control variates, its recipe does not ask for them")


def open_package(ref: RefLike, *, signers: Collection[PublicKey] = ()) -> OpenPackage:
    """Fetch, verify and open a package: its signatures, every file's digest, the proxy's lineage, its tensors.

    Args:
        ref: path or Hub address.
        signers: one of them must have signed it; without any, nobody has to.

    Raises:
        SignerError: as `open_folder`.
        InputError, ArtifactError, DigestError, LineageError: as `open_folder` and `TensorFile`.
    """
    folder = open_folder(store.fetch(parse_ref(ref)), PackageHeader, signers=signers)
    proxy = TensorFile(folder.path / PROXY, ProxyHeader)
    try:
        check_parent(folder.header, "proxy", proxy.sha256, source=str(folder.path), parent=PROXY)
        ours, theirs = folder.header, proxy.header
        if (ours.federation, ours.round, ours.method) != (theirs.federation, theirs.round, theirs.method):
            raise LineageError(f"{folder.path}: the proxy in it belongs to another federation, round or method")
        check_proxy(proxy)
        check_asked(ours, theirs, source=str(folder.path))
    except BaseException:
        proxy.close()
        raise
    return OpenPackage(folder, proxy)
