"""The arguments and options that several commands share: their types, names, environment variables and help."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Context, Option

from tuner.commands import storage_url


def _storage(context: Context, given: str) -> str:
    """Return the storage URL of a command; without `--storage` the environment and its files decide, not the default."""
    source = context.get_parameter_source("storage")
    return storage_url.url(None if source is not None and source.name == "DEFAULT" else given)


StudyFile = Annotated[Path, Argument(metavar="FILE", help="Study file, for example studies/animals.yaml.", show_default=False)]
StudyName = Annotated[str, Argument(metavar="STUDY", help="Name of a study.", show_default=False)]
AnyStudy = Annotated[str | None, Argument(metavar="[STUDY]", help="Name of a study; all studies if left out.", show_default=False)]
Storage = Annotated[str, Option(envvar="TUNER_STORAGE", metavar="URL", callback=_storage, help="SQLAlchemy URL of the database.")]
Cache = Annotated[
    Path | None,
    Option(envvar="TUNER_CACHE", metavar="FOLDER", help="Where decoded images and features are kept.", show_default="~/.cache/tuner"),
]
CacheLimit = Annotated[
    str | None,
    Option(envvar="TUNER_CACHE_LIMIT", metavar="SIZE", help="The most that the cache takes, e.g. 20GB.", show_default="half the free disk"),
]
Artifacts = Annotated[
    str, Option(envvar="TUNER_ARTIFACTS", metavar="FOLDER", help="Where weights, checkpoints and logs are kept; s3://BUCKET/PREFIX: in S3.")
]
Threads = Annotated[int | None, Option(min=1, metavar="N", help="Threads a worker.", show_default="a fair share of the cores")]
HangLimit = Annotated[
    str | None,
    Option(metavar="TIME", help="Silence of the trainer after which it is replaced; more than the longest epoch.", show_default="30m"),
]
MemoryLimit = Annotated[
    str | None,
    Option(metavar="SIZE", help="Memory past which the training process is replaced, e.g. 4GB.", show_default="a fair share"),
]
SlotsPerGpu = Annotated[
    int | None, Option(envvar="TUNER_SLOTS_PER_GPU", min=1, max=64, metavar="N", help="Workers that share a GPU.", show_default="1")
]
Engine = Annotated[Literal["local", "ray"], Option(help="Who places the workers: this machine, or a Ray cluster.")]
Address = Annotated[
    str | None,
    Option(
        metavar="ADDRESS",
        help="Ray cluster that this machine is a node of: auto, or HOST:PORT of its head.",
        show_default="a Ray of its own",
    ),
]
GpusPerWorker = Annotated[
    float | None,
    Option(min=0, max=1, metavar="X", help="GPUs a worker, with --engine ray, e.g. 0.5.", show_default="1, or 0 in a cluster without GPUs"),
]
CpusPerWorker = Annotated[int | None, Option(min=1, metavar="N", help="CPUs a worker, with --engine ray.", show_default="1")]
Wait = Annotated[
    str | None,
    Option(metavar="TIME", help="How long to wait for what is not there yet, e.g. 5m.", show_default="not at all"),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
AsYaml = Annotated[bool, Option("--yaml", help="Print the whole config as a study file.")]
Workers = Annotated[
    int | None,
    Option(
        min=1,
        max=256,
        metavar="N",
        help="Workers.",
        show_default="1, or one for each slot of the GPUs; with --engine ray as many as find room",
    ),
]
DataPath = Annotated[
    Path | None,
    Option(envvar="TUNER_DATA", metavar="PATH", help="Where the study's images lie here.", show_default="where the study says"),
]
AllowCode = Annotated[
    str | None,
    Option(
        envvar="TUNER_ALLOW_CODE",
        metavar="MODULES",
        help="Modules, with commas, that a study out of the storage may have imported.",
        show_default="none",
    ),
]
OneByOne = Annotated[list[str] | None, Option("--set", metavar="NAME=VALUE", help="One of them.", show_default=False)]
ConfigFile = Annotated[Path | None, Argument(metavar="[FILE]", help="Hyperparameters in YAML, or an export.", show_default=False)]
OneTrial = Annotated[int | None, Option(min=0, metavar="N", help="Stop only this trial.", show_default=False)]
Now = Annotated[bool, Option("--now", help="Hand running trials back instead of training them to their end.")]
OneWorker = Annotated[str | None, Option(metavar="NAME", help="End only this worker, after its trial.", show_default=False)]
Earlier = Annotated[
    list[str] | None,
    Option(
        "--from",
        metavar="STUDY|BUNDLE|FILE",
        help="Earlier study whose best configs are tried first, or a bundle's or an export's; may be given often.",
        show_default="none",
    ),
]
EarlierStorage = Annotated[
    str | None,
    Option(
        "--from-storage",
        metavar="URL",
        help="Database of the studies that --from names.",
        show_default="as --storage",
    ),
]
