"""Commands that ship a model: `tuner retrain`, `export`, `predict`, `verify`, versions, signatures and encryption."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import (
    DEFAULT_ARTIFACTS,
    DEFAULT_STORAGE,
    Artifacts,
    AsJson,
    Cache,
    DataPath,
    FolderOptions,
    LimitOptions,
    OriginOptions,
    RunOptions,
    Storage,
    StudyName,
    with_groups,
)

app = typer.Typer()

_Bundle = Annotated[Path, Argument(metavar="BUNDLE", help="Folder that `tuner export` wrote.", show_default=False)]
_Threads = Annotated[int, Option(min=0, metavar="N", help="Number of threads. 0: one per core.")]
_PassphraseFile = Annotated[
    Path | None,
    Option(metavar="FILE", help="File whose first line is the passphrase.", show_default="TUNER_PASSPHRASE"),
]


_Name = Annotated[str, Argument(metavar="NAME", help="Name of the study.", show_default=False)]
_Number = Annotated[int, Argument(metavar="V", min=1, help="Version number.", show_default=False)]
_Stage = Literal["production", "staging"]
_Mlflow = Annotated[
    str | None,
    Option(metavar="URI", help="Also record the change in the model registry of this MLflow server or database.", show_default="none"),
]


@app.command()
@with_groups
def export(
    study: StudyName,
    *,
    to: Annotated[
        Path, Option(metavar="PLACE", help="Study file to write (.yaml, .yml or .json), or the folder of a bundle.", show_default=False)
    ],
    trial: Annotated[
        int | None, Option(min=0, metavar="N", help="Trial to export.", show_default="the best, or the ensemble if it is better")
    ] = None,
    single: Annotated[bool, Option("--single", help="Export one network, even if the ensemble is better.")] = False,
    mirror: Annotated[
        Literal["auto", "always", "never"],
        Option(help="Whether the model averages each image with its mirror image. auto: as the ensemble chose."),
    ] = "auto",
    max_latency_ms: Annotated[
        float | None,
        Option(min=0, metavar="MS", help="Export the best result that takes at most MS for one image here.", show_default=False),
    ] = None,
    version: Annotated[int | None, Option(min=1, metavar="V", help="Export a version instead of a trial.", show_default=False)] = None,
    formats: Annotated[
        str | None,
        Option(
            "--format",
            metavar="NAMES",
            help="Formats of a bundle, separated by commas: keras, savedmodel, onnx, litert, or all.",
            show_default="keras",
        ),
    ] = None,
    quantize: Annotated[Literal["int8"] | None, Option(help="Add a quantized model.", show_default=False)] = None,
    storage: Storage = DEFAULT_STORAGE,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file or bundle.")] = False,
    threads: _Threads = 0,
    origin: OriginOptions,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    cache: Cache = None,
) -> int:
    """Write the ensemble, the best trial, another trial or a version as a study file, or as a bundle with its model."""
    from tuner.commands import export as commands_export
    from tuner.commands import options

    asked = commands_export.ExportOptions(
        to=to, trial=trial, version=version, single=single, mirror=mirror, max_latency_ms=max_latency_ms, formats=formats,
        int8=quantize is not None, force=force, threads=threads, local=origin.local_settings(),
    )  # fmt: skip
    return commands_export.export(study, storage, asked, options.folders(cache, artifacts))


@app.command()
def predict(
    bundle: _Bundle,
    images: Annotated[
        list[str],
        Argument(metavar="IMAGE...", help="Image files, or folders of them. For a model of yours: a file of arrays.", show_default=False),
    ],
    top: Annotated[int, Option(min=1, metavar="N", help="Number of classes to print, most likely first.")] = 1,
    to: Annotated[
        Path | None, Option(metavar="FILE", help="For a model of yours: .npz file for the outputs.", show_default="printed")
    ] = None,
    as_json: AsJson = False,
    threads: _Threads = 0,
) -> int:
    """Classify images with the model of a bundle, or predict arrays (.npz, .npy, .csv) with a model of yours."""
    from tuner.commands import bundles

    return bundles.predict(bundle, images, top=top, as_json=as_json, threads=threads, to=to)


@app.command()
@with_groups
def retrain(
    study: StudyName,
    *,
    top: Annotated[int, Option(min=1, max=100, metavar="K", help="Number of distinct configurations to train, best first.")] = 3,
    seeds: Annotated[int, Option(min=1, max=100, metavar="N", help="Trainings per configuration, each with its own seed.")] = 3,
    on: Annotated[
        Literal["train", "train+validation"] | None,
        Option("--on", help="Images that the chosen version is trained on.", show_default="train; with folds train+validation"),
    ] = None,
    single: Annotated[bool, Option("--single", help="Store one network, even if an ensemble of the seeds is better.")] = False,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_STORAGE,
    origin: OriginOptions,
    workers: RunOptions,
    limits: LimitOptions,
    folders: FolderOptions,
) -> int:
    """Train the best configurations with several seeds, and store the chosen one as a version."""
    from tuner.commands import retrain as commands_retrain

    kept_in = folders.folders()
    asked = commands_retrain.RetrainOptions(top=top, seeds=seeds, on=on, single=single)
    return commands_retrain.retrain(
        study, storage, asked, local=origin.local_settings(), folders=kept_in, engine=workers.within(limits), as_json=as_json
    )


@app.command()
def keygen(
    kind: Annotated[
        Literal["seal", "sign"],
        Argument(metavar="KIND", help="seal: to encrypt and decrypt. sign: to sign and verify.", show_default=False),
    ],
    to: Annotated[Path, Argument(metavar="FILE", help="File to write the private key to.", show_default=False)],
) -> int:
    """Create a key pair to seal or sign bundles."""
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
    """Sign a bundle."""
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
            help="Public key, or file of public keys, that may decrypt the bundle (repeatable).",
            show_default="the key of TUNER_ARTIFACT_KEY",
        ),
    ] = None,
    passphrase_file: _PassphraseFile = None,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
) -> int:
    """Encrypt a bundle into one file, for recipients or with a passphrase."""
    from tuner.commands import bundles

    return bundles.seal(bundle, to, recipient or [], passphrase_file, force=force)


@app.command()
def unseal(
    sealed: Annotated[Path, Argument(metavar="FILE", help="File that `tuner seal` wrote.", show_default=False)],
    to: Annotated[Path, Option(metavar="FOLDER", help="New folder to write.", show_default=False)],
    identity: Annotated[
        Path | None, Option(metavar="FILE", help="File of the secret key, from `tuner keygen seal`.", show_default="TUNER_ARTIFACT_KEY")
    ] = None,
    passphrase_file: _PassphraseFile = None,
) -> int:
    """Decrypt a sealed bundle. A damaged or changed file is refused as a whole."""
    from tuner.commands import bundles

    return bundles.unseal(sealed, to, identity, passphrase_file)


@app.command()
def verify(
    bundle: _Bundle,
    signature: Annotated[
        Path | None, Option(metavar="KEY", help="Public key to check the signature with.", show_default="no check")
    ] = None,
    require: Annotated[Path | None, Option(metavar="FILE", help="YAML file with the minimum accuracies.", show_default="none")] = None,
    data: DataPath = None,
    robustness: Annotated[bool, Option("--robustness/--no-robustness", help="Measure the accuracy on corrupted images.")] = True,
    images: Annotated[int, Option(min=1, metavar="N", help="Maximum number of test images for the robustness check.")] = 200,
    tolerance: Annotated[float, Option(min=0, max=1, metavar="X", help="Allowed difference of the test accuracy.")] = 0.005,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
    cache: Cache = None,
) -> int:
    """Check that a bundle is complete, signed, safe to load and as accurate as recorded."""
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


@app.command()
def versions(
    name: Annotated[str | None, Argument(metavar="NAME", help="Name of a study. Default: all studies.", show_default=False)] = None,
    storage: Storage = DEFAULT_STORAGE,
    add: Annotated[
        int | None, Option(min=0, metavar="TRIAL", help="Store a completed trial of the study NAME as a version.", show_default="none")
    ] = None,
    delete: Annotated[int | None, Option(min=1, metavar="V", help="Delete a version of NAME permanently.", show_default="none")] = None,
    deleted: Annotated[bool, Option("--deleted", help="Show deleted versions, too.")] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the versions of one study or all studies, add one, or delete one."""
    from tuner.commands import versions as commands_versions

    if add is not None:
        name = commands_versions.require_name(name, "--add", add, other=delete)
        return commands_versions.add(name, storage, add, as_json=as_json)
    if delete is not None:
        return commands_versions.delete(
            commands_versions.require_name(name, "--delete", delete), storage, delete, confirmed=yes, as_json=as_json
        )
    return commands_versions.show(name, storage, deleted=deleted, as_json=as_json)


@app.command()
def promote(
    name: _Name,
    number: _Number,
    to: Annotated[_Stage, Option(help="Stage to promote the version to.")] = "production",
    mlflow: _Mlflow = None,
    bundle: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Bundle to upload to MLflow.", show_default="weights, configuration and metrics"),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Promote a version to production or staging, in place of the current one."""
    from tuner.commands import versions as commands_versions

    target = commands_versions.MlflowTarget(mlflow=mlflow, bundle=bundle)
    return commands_versions.promote(name, storage, number, to, mlflow=target, as_json=as_json)


@app.command()
def rollback(
    name: _Name,
    stage: Annotated[_Stage, Option(help="Stage to roll back.")] = "production",
    withdraw: Annotated[bool, Option("--withdraw", help="Leave the stage empty.")] = False,
    mlflow: _Mlflow = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Roll production or staging back to the previous version."""
    from tuner.commands import versions as commands_versions

    target = commands_versions.MlflowTarget(mlflow=mlflow)
    return commands_versions.rollback(name, storage, stage, withdraw=withdraw, mlflow=target, as_json=as_json)


@app.command()
def diff(
    name: _Name,
    first: Annotated[int, Argument(metavar="V1", min=1, help="Version number.", show_default=False)],
    second: Annotated[int, Argument(metavar="V2", min=1, help="Another version number.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Compare two versions: configuration, data, metrics and packages."""
    from tuner.commands import versions as commands_versions

    return commands_versions.diff(name, storage, (first, second), as_json=as_json)
