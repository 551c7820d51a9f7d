"""Arguments and options that several commands share, and the groups of options that belong together."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from typer import Argument, Context, Option

from tuner.commands import artifacts, storage_url
from tuner.terminal import plain

if TYPE_CHECKING:
    from tuner.commands.engines import EngineOptions
    from tuner.commands.origin import LocalSettings
    from tuner.workers.bucket.transfer import Folders

T = TypeVar("T")

DEFAULT_STORAGE = storage_url.DEFAULT
DEFAULT_ARTIFACTS = artifacts.DEFAULT


def _storage(context: Context, given: str) -> str:
    """Return the storage URL of a command; without `--storage` the environment and its files decide, not the default."""
    source = context.get_parameter_source("storage")
    url = storage_url.url(None if source is not None and source.name == "DEFAULT" else given)
    if source is not None and source.name == "COMMANDLINE" and url != storage_url.url(None):
        plain.remember_storage(_without_password(url))
    return url


def _without_password(url: str) -> str:
    if "@" not in url and "?" not in url:
        return url
    from tuner.storage import engine as storages  # imports SQLAlchemy, which takes longer than the rest of a short command

    return storages.shown(url)


StudyFile = Annotated[Path, Argument(metavar="FILE", help="Study file, for example studies/animals.yaml.", show_default=False)]
StudyName = Annotated[str, Argument(metavar="STUDY", help="Name of a study.", show_default=False)]
AnyStudy = Annotated[str | None, Argument(metavar="STUDY", help="Name of a study. Default: all studies.", show_default=False)]
Storage = Annotated[str, Option(envvar="TUNER_STORAGE", metavar="URL", callback=_storage, help="SQLAlchemy URL of the database.")]
Cache = Annotated[
    Path | None,
    Option(envvar="TUNER_CACHE", metavar="FOLDER", help="Folder of decoded images and features.", show_default="~/.cache/tuner"),
]
CacheLimit = Annotated[
    str | None,
    Option(envvar="TUNER_CACHE_LIMIT", metavar="SIZE", help="Maximum size of the cache, e.g. 20GB.", show_default="half the free disk"),
]
Artifacts = Annotated[
    str,
    Option(envvar="TUNER_ARTIFACTS", metavar="FOLDER|URL", help="Folder or bucket of weights, checkpoints and logs."),
]
RootPath = Annotated[
    str | None,
    Option(envvar="TUNER_ROOT_PATH", metavar="PATH", help="Path prefix of the dashboard behind a proxy.", show_default="none"),
]
Threads = Annotated[int | None, Option(min=1, metavar="N", help="Threads per worker.", show_default="a fair share of the cores")]
HangLimit = Annotated[
    str | None,
    Option(
        metavar="TIME",
        help="Replace a trainer that is silent for this long. Must exceed the longest epoch.",
        show_default="30m; no limit for an objective",
    ),
]
MemoryLimit = Annotated[
    str | None,
    Option(metavar="SIZE", help="Replace a trainer that uses more memory than this, e.g. 4GB.", show_default="a fair share"),
]
SlotsPerGpu = Annotated[
    int | None, Option(envvar="TUNER_SLOTS_PER_GPU", min=1, max=64, metavar="N", help="Workers that share a GPU.", show_default="1")
]
Wait = Annotated[
    str | None,
    Option(metavar="TIME", help="Wait this long for a database or a study that does not exist yet, e.g. 5m.", show_default="do not wait"),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
DataPath = Annotated[
    Path | None,
    Option(envvar="TUNER_DATA", metavar="PATH", help="Path of the study's images on this machine.", show_default="as in the study"),
]
DataRoot = Annotated[
    Path | None,
    Option(
        envvar="TUNER_DATA_ROOT",
        metavar="FOLDER",
        help="Folder below which the pool finds the images of all studies on this machine.",
        show_default="none",
    ),
]
AllowCode = Annotated[
    str | None,
    Option(
        envvar="TUNER_ALLOW_CODE",
        metavar="MODULES",
        help="Python modules and files that a study from the storage may import, separated by commas.",
        show_default="none",
    ),
]
FromStorage = Annotated[
    str | None, Option("--from-storage", metavar="URL", help="Database of the studies that --from names.", show_default="as --storage")
]
AcceptCode = Annotated[bool, Option("--accept-code", help="Continue with your code as it is here, although the study recorded other code.")]


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of commands that write artifacts and read the cache."""

    artifacts: Artifacts = DEFAULT_ARTIFACTS
    cache: Cache = None
    cache_limit: CacheLimit = None

    def folders(self) -> "Folders":
        """Return the folders, and limit the cache of this process.

        Raises:
            RequestError: a folder or a size is not usable.
        """
        from tuner.commands import options

        options.limit_cache(self.cache_limit)
        return options.folders(self.cache, self.artifacts)


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Options of commands that start at least one worker: what each worker may use."""

    threads: Threads = None
    hang_limit: HangLimit = None
    memory_limit: MemoryLimit = None
    slots_per_gpu: SlotsPerGpu = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of commands that start several workers: how many, and where."""

    workers: Annotated[
        int | None,
        Option(
            min=1,
            max=256,
            metavar="N",
            help="Number of worker processes.",
            show_default="1, or one per GPU slot; with --engine ray as many as fit",
        ),
    ] = None
    engine: Annotated[Literal["local", "ray"], Option(help="Where workers run: on this machine, or on a Ray cluster.")] = "local"
    address: Annotated[
        str | None,
        Option(
            metavar="ADDRESS",
            help="Ray cluster that includes this machine: auto, or HOST:PORT of its head.",
            show_default="a new local Ray",
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        Option(min=0, max=1, metavar="X", help="GPUs per worker with --engine ray, e.g. 0.5.", show_default="1, or 0 without GPUs"),
    ] = None
    cpus_per_worker: Annotated[int | None, Option(min=1, metavar="N", help="CPUs per worker with --engine ray.", show_default="1")] = None

    def within(self, limits: LimitOptions) -> "EngineOptions":
        """Return the options of an engine whose workers have these limits."""
        from tuner.commands import engines

        return engines.EngineOptions(**vars(self), **vars(limits))


@dataclass(frozen=True, kw_only=True)
class OriginOptions:
    """Options of commands that read a study from the storage, which may come from another machine."""

    data: DataPath = None
    allow_code: AllowCode = None

    def local_settings(self, wait_seconds: float = 0.0, *, accept_code: bool = False) -> "LocalSettings":
        """Return where the study's images are on this machine, and which code it may import.

        Raises:
            RequestError: an entry of `--allow-code` is not a module name.
        """
        from tuner.commands import origin
        from tuner.trust import user_code

        return origin.LocalSettings(
            data=self.data, allowed_code=user_code.read_allowed(self.allow_code), wait_seconds=wait_seconds, accept_code=accept_code
        )


_GROUPS = (FolderOptions, LimitOptions, RunOptions, OriginOptions)


def with_groups(command: Callable[..., T]) -> Callable[..., T]:
    """Let a command take groups of options: Typer sees the fields of each group, and the command gets the group.

    A parameter whose type is a group is replaced by one option per field of the group.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if hint in _GROUPS}

    @functools.wraps(command)
    def expanded(**given: Any) -> T:
        made = {name: group(**{field.name: given.pop(field.name) for field in fields(group)}) for name, group in groups.items()}
        return command(**given, **made)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        parameters += _options(group) if group else [parameter.replace(annotation=hints[parameter.name])]
    expanded.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": int}
    del expanded.__wrapped__  # Typer would look through it
    return expanded


def _options(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name]) for field in fields(group)]
