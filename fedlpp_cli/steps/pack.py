"""`pack`: a proxy and a recipe become what a client gets."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.card import package_card
from fedlpp_cli.artifact.folder import BASE, CARD, MANIFEST, PROXY, open_folder, write_folder
from fedlpp_cli.artifact.key_files import SigningKey, fingerprints_of
from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.release_ledger import (
    AdapterRelease,
    BaseRelease,
    Release,
    check_releases,
    default_ledger,
    record_releases,
)
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import DigestError, LineageError, SecrecyError, UsageError
from fedlpp_cli.methods.method import Asked
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.records.headers import (
    BaseHeader,
    FileEntry,
    MasterHeader,
    PackageHeader,
    PackageSpec,
    ProxyHeader,
)
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.record import Digest, Record
from fedlpp_cli.records.specs import DEFAULT_STEPS, FULL_PRECISION, QuantSpec, TrainSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, check_parent


class PackResult(Record, frozen=True, kw_only=True):
    """What `pack` made; with `dry_run` what it would make, and `sha256` is None.

    `ledger`: the file that says what was released. `signed_with`: fingerprints of the keys that sign it.
    """

    path: str
    sha256: str | None
    federation: str
    round: int
    client: str | None
    train: TrainSpec
    update: QuantSpec
    n_files: int
    n_bytes: int
    ledger: str
    signed_with: tuple[Digest, ...]


def pack(
    proxy: RefLike,
    *,
    out: RefLike,
    train: TrainSpec | None = None,
    update: QuantSpec | None = None,
    client: str | None = None,
    base_artifact: RefLike | None = None,
    ledger: Path | str | None = None,
    sign: Sequence[SigningKey] = (),
    force: bool = False,
    dry_run: bool = False,
) -> PackResult:
    """Bind a proxy, a training recipe and, for a private base, its quantized copy into one package.

    Args:
        proxy: what `quantize` made.
        out: the package's folder, on disk or on the Hub.
        train: the recipe.
        update: how clients round what they send back, to the nearest level; None for full precision.
        client: the one client it is for; None for any, or for whom the proxy is.
        base_artifact: the quantized private base that `quantize` made.
        ledger: the file that notes what was released; None for the federation's in the user's state folder.
        sign: the owner's keys, which sign the manifest (`artifact/key_files.read_signing_key` opens them).
        force: replace an existing package.
        dry_run: check everything and write nothing.

    Raises:
        SecrecyError: a master instead of a proxy.
        SecondReleaseError: another proxy of the same master, or another copy of the same private base, was released.
        UsageError: a private base without `base_artifact`; updates rounded in another way than to the nearest level; a
            proxy with control variates and a recipe without; a proxy of another client; a recipe with control variates
            for a proxy with masks; one key twice; what the federation's method does not go with.
        LineageError: a base that does not belong to the proxy.
        ArtifactError, InputError, OutputError: a ledger that cannot be read or written.
    """
    signed_with = fingerprints_of(sign)
    train, update = train or TrainSpec(steps=DEFAULT_STEPS), update or FULL_PRECISION
    with _open_proxy(proxy) as opened:
        found = opened.header.spec
        method_of(opened.header, source=str(opened.path)).check(
            Asked(quantize=found.quantize, mask=found.mask or MaskSpec(), train=train, update=update)
        )
        spec = _spec(_client_of(opened, client), train, update)
        if opened.header.spec.control_variates and not spec.train.control_variates:
            raise UsageError(
                f"--control-variates is missing: this federation has them since an earlier round, {opened.path} too",
                hint="or control_variates = true under [train] in the --federation file",
            )
        if opened.header.spec.mask is not None and spec.train.control_variates:
            raise UsageError("--control-variates: they would tell how rows move that the proxy hides")
        contents = _contents(opened, spec, base_artifact)
        sizes = [
            len(content) if isinstance(content, bytes) else content.stat().st_size for content in contents.values()
        ]
        ledger = Path(ledger or default_ledger(opened.header.federation or ""))
        result = partial(_result, opened, spec, sizes=sizes, ledger=ledger, signed_with=signed_with)
        releases = _releases(opened)
        if dry_run:
            check_releases(ledger, releases)
            return result(path=str(out), sha256=None)
        title = f"Package of round {opened.header.round}"
        with store.destination(parse_ref(out), message=title, force=force) as place:
            record_releases(ledger, releases)
            sha256 = write_folder(place.path, contents, _manifest_for(opened, spec), sign=sign, force=force)
        return result(path=str(place.written), sha256=sha256)


def _client_of(proxy: TensorFile[ProxyHeader], client: str | None) -> str | None:
    owner = proxy.header.spec.client
    if client is not None and owner not in (None, client):
        raise UsageError(f"--client {client}: {proxy.path} hides what client {owner!r} is not to get")
    return client or owner


def _spec(client: str | None, train: TrainSpec, update: QuantSpec) -> PackageSpec:
    if update.bits == "full":
        update = FULL_PRECISION  # block and scale mean nothing then
    try:
        return PackageSpec(client=client, train=train, update=update)
    except ValueError as problem:
        raise UsageError(f"[update] {problem}") from None


def _releases(proxy: TensorFile[ProxyHeader]) -> list[Release]:
    header = proxy.header
    master, base = header.parent("master"), header.parent("base")
    if master is None:
        raise LineageError(f"{proxy.path}: it does not say of which master it is the proxy")
    rank = header.spec.model.lora.rank
    releases: list[Release] = [
        AdapterRelease(
            master=master,
            proxy=proxy.sha256,
            quantize=header.spec.quantize,
            rank=rank,
            mask=header.spec.mask,
            client=header.spec.client,
        )
    ]
    if header.spec.model.base.private and base is not None:
        releases.append(BaseRelease(federation=header.federation or "", base=base))
    return releases


def _open_proxy(ref: RefLike) -> TensorFile[ProxyHeader]:
    path = store.fetch(parse_ref(ref))
    if path.is_file() and isinstance(open_any(path).header, MasterHeader):
        raise SecrecyError(f"{path} is a master: it never leaves its owner", hint=f"fedlpp quantize {path} --out PROXY")
    return TensorFile(path, ProxyHeader)


def _contents(
    proxy: TensorFile[ProxyHeader], spec: PackageSpec, base_artifact: RefLike | None
) -> dict[str, bytes | Path]:
    contents: dict[str, bytes | Path] = {
        PROXY: proxy.path,
        CARD: package_card(proxy.header, spec).encode(),
    }
    if proxy.header.spec.model.base.private:
        if base_artifact is None:
            raise UsageError("--base-artifact is missing: the base is private", hint="what quantize --base-out made")
        base = open_folder(store.fetch(parse_ref(base_artifact)), BaseHeader)
        check_parent(proxy.header, "base", base.sha256, source=str(proxy.path), parent=str(base.path))
        names = [MANIFEST, *(entry.name for entry in base.header.files)]
        contents |= {f"{BASE}/{name}": base.path / name for name in names}
    return contents


def _manifest_for(
    proxy: TensorFile[ProxyHeader], spec: PackageSpec
) -> Callable[[tuple[FileEntry, ...]], PackageHeader]:
    base = proxy.header.parents.get("base", ())
    parents = {"proxy": (proxy.sha256,), **({"base": base} if base else {})}
    noted = {PROXY: proxy.sha256, **({f"{BASE}/{MANIFEST}": base[0]} if base else {})}

    def manifest(files: tuple[FileEntry, ...]) -> PackageHeader:
        for entry in files:
            if noted.get(entry.name, entry.sha256) != entry.sha256:
                raise DigestError(
                    f"{entry.name}: what was copied is not what the release ledger notes; it was replaced"
                )
        return PackageHeader(
            federation=proxy.header.federation,
            round=proxy.header.round,
            method=proxy.header.method,
            parents=parents,
            spec=spec,
            files=files,
        )

    return manifest


def _result(
    proxy: TensorFile[ProxyHeader],
    spec: PackageSpec,
    *,
    path: str,
    sha256: str | None,
    sizes: Sequence[int],
    ledger: Path,
    signed_with: tuple[str, ...],
) -> PackResult:
    return PackResult(
        path=path,
        sha256=sha256,
        federation=proxy.header.federation or "",
        round=proxy.header.round,
        client=spec.client,
        train=spec.train,
        update=spec.update,
        n_files=len(sizes),
        n_bytes=sum(sizes),
        ledger=str(ledger),
        signed_with=signed_with,
    )
