"""The commands that make of a study's best config a model to ship."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import (
    Address,
    AllowCode,
    Artifacts,
    AsJson,
    Cache,
    CacheLimit,
    CpusPerWorker,
    DataPath,
    Engine,
    GpusPerWorker,
    HangLimit,
    MemoryLimit,
    SlotsPerGpu,
    Storage,
    StudyName,
    Threads,
    Workers,
)
from tuner.commands import storage_url

app = typer.Typer()

_Bundle = Annotated[Path, Argument(metavar="BUNDLE", help="Folder that `tuner export` made.", show_default=False)]
_Threads = Annotated[int, Option(min=0, metavar="N", help="Threads to compute with; 0: all cores.")]
_PassphraseFile = Annotated[
    Path | None,
    Option(metavar="FILE", help="File whose first line is the passphrase.", show_default="TUNER_PASSPHRASE in the environment"),
]


@app.command()
def export(
    study: StudyName,
    to: Annotated[
        Path, Option(metavar="PLACE", help="Study file to write (.yaml, .yml or .json), or the folder of a bundle.", show_default=False)
    ],
    trial: Annotated[int | None, Option(min=0, metavar="N", help="Another trial than the best.", show_default="the best")] = None,
    version: Annotated[
        int | None, Option(min=1, metavar="V", help="A version of the study instead of a trial.", show_default=False)
    ] = None,
    formats: Annotated[
        str | None,
        Option(
            "--format", metavar="NAMES", help="Of a bundle: keras, savedmodel, onnx, litert, with commas; or all.", show_default="keras"
        ),
    ] = None,
    quantize: Annotated[Literal["int8"] | None, Option(help="Add a model in 8 bits.", show_default=False)] = None,
    storage: Storage = storage_url.STORAGE,
    force: Annotated[bool, Option("--force", help="Replace whatever the file holds, or a bundle.")] = False,
    threads: _Threads = 0,
    data: DataPath = None,
    allow_code: AllowCode = None,
    artifacts: Artifacts = storage_url.ARTIFACTS,
    cache: Cache = None,
) -> int:
    """Write the best trial as a study file of fixed values, or as a bundle with its model; or another trial, or a version."""
    from tuner.commands import export as commands_export
    from tuner.commands import options, origin

    asked = commands_export.ExportOptions(
        to=to, trial=trial, version=version, formats=formats, int8=quantize is not None, force=force, threads=threads,
        here=origin.Here(data=data, allowed_code=origin.read_code(allow_code), wait_seconds=0.0),
    )  # fmt: skip
    return commands_export.export_to(study, storage, asked, options.places(cache, artifacts))


@app.command()
def predict(
    bundle: _Bundle,
    images: Annotated[list[Path], Argument(metavar="IMAGE...", help="Files, or folders of them.", show_default=False)],
    top: Annotated[int, Option(min=1, metavar="N", help="Classes to name, the likeliest first.")] = 1,
    as_json: AsJson = False,
    threads: _Threads = 0,
) -> int:
    """Say what a bundle's model makes of images."""
    from tuner.commands import bundles

    return bundles.predict(bundle, images, top=top, as_json=as_json, threads=threads)


@app.command()
def retrain(
    study: StudyName,
    top: Annotated[int, Option(min=1, max=100, metavar="K", help="Distinct configs to train again, the best first.")] = 3,
    seeds: Annotated[int, Option(min=1, max=100, metavar="N", help="Trainings of each, with seeds of their own.")] = 3,
    on: Annotated[
        Literal["train", "train+validation"], Option("--on", help="What the version is trained on, once it is chosen.")
    ] = "train",
    workers: Workers = None,
    as_json: AsJson = False,
    storage: Storage = storage_url.STORAGE,
    data: DataPath = None,
    allow_code: AllowCode = None,
    threads: Threads = None,
    hang_limit: HangLimit = None,
    memory_limit: MemoryLimit = None,
    slots_per_gpu: SlotsPerGpu = None,
    engine: Engine = "local",
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    artifacts: Artifacts = storage_url.ARTIFACTS,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> int:
    """Train a study's best configs again, choose one, and measure it once on the test split: a version."""
    from tuner.commands import engines, options, origin
    from tuner.commands import retrain as commands_retrain

    options.limit_cache(cache_limit)
    wanted = engines.EngineOptions(
        engine=engine, workers=workers, threads=threads, hang_limit=hang_limit, memory_limit=memory_limit, slots_per_gpu=slots_per_gpu,
        address=address, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker,
    )  # fmt: skip
    place = origin.Here(data=data, allowed_code=origin.read_code(allow_code), wait_seconds=0.0)
    asked = commands_retrain.RetrainOptions(top=top, seeds=seeds, on=on)
    return commands_retrain.retrain(
        study, storage, asked, here=place, places=options.places(cache, artifacts), engine=wanted, as_json=as_json
    )


@app.command()
def keygen(
    kind: Annotated[Literal["seal", "sign"], Argument(help="Whether to seal and unseal with, or to sign and verify.", show_default=False)],
    to: Annotated[Path, Argument(metavar="FILE", help="File of the private key.", show_default=False)],
) -> int:
    """Make a pair of keys to seal or to sign with."""
    from tuner.commands import bundles

    return bundles.keygen(kind, to)


@app.command()
def sign(
    bundle: _Bundle,
    key: Annotated[
        Path | None,
        Option(envvar="TUNER_SIGNING_KEY", metavar="FILE", help="File of the private key, from `tuner keygen sign`.", show_default=False),
    ] = None,
) -> int:
    """Sign a bundle, so that others can tell that it is yours."""
    from tuner.commands import bundles

    return bundles.sign(bundle, key)


@app.command()
def seal(
    bundle: _Bundle,
    to: Annotated[Path, Option(metavar="FILE", help="File to write.", show_default=False)],
    recipient: Annotated[
        list[str] | None,
        Option(
            metavar="KEY",
            help="Public key, or file of public keys, that may open it; may be given often.",
            show_default="TUNER_ARTIFACT_KEY's",
        ),
    ] = None,
    passphrase_file: _PassphraseFile = None,
    force: Annotated[bool, Option("--force", help="Replace whatever the file holds.")] = False,
) -> int:
    """Encrypt a bundle into one file, for some people only."""
    from tuner.commands import bundles

    return bundles.seal(bundle, to, recipient or [], passphrase_file, force=force)


@app.command()
def unseal(
    sealed: Annotated[Path, Argument(metavar="FILE", help="File that `tuner seal` wrote.", show_default=False)],
    to: Annotated[Path, Option(metavar="FOLDER", help="Folder to write; it must not be there yet.", show_default=False)],
    identity: Annotated[
        Path | None, Option(metavar="FILE", help="File of the secret key, from `tuner keygen seal`.", show_default="TUNER_ARTIFACT_KEY")
    ] = None,
    passphrase_file: _PassphraseFile = None,
) -> int:
    """Decrypt a sealed bundle, whole and authentic or not at all."""
    from tuner.commands import bundles

    return bundles.unseal(sealed, to, identity, passphrase_file)


@app.command()
def verify(
    bundle: _Bundle,
    signature: Annotated[
        Path | None, Option(metavar="KEY", help="Public key that the signature is checked with.", show_default="it is not checked")
    ] = None,
    require: Annotated[
        Path | None, Option(metavar="FILE", help="YAML file of the lowest accuracies that are borne.", show_default="none")
    ] = None,
    data: DataPath = None,
    robustness: Annotated[bool, Option("--robustness/--no-robustness", help="Measure it on images with something wrong.")] = True,
    images: Annotated[int, Option(min=1, metavar="N", help="The most test images that robustness is measured on.")] = 200,
    tolerance: Annotated[float, Option(min=0, max=1, metavar="X", help="Difference of the test accuracy that is borne.")] = 0.005,
    storage: Storage = storage_url.STORAGE,
    as_json: AsJson = False,
    cache: Cache = None,
) -> int:
    """Check that a bundle is whole, signed, safe to load and as good as it says."""
    from tuner.commands import bundles

    asked = bundles.VerifyOptions(
        signature=signature,
        require=require,
        data=data,
        robustness=robustness,
        images=images,
        tolerance=tolerance,
        cache=cache,
        storage=storage,
    )
    return bundles.verify(bundle, asked, as_json=as_json)
