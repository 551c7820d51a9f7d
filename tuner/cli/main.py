"""Whatever went wrong, into one message on stderr; passwords are blotted out.

Command lines into calls, and errors into one message and an exit code: 0 done, 1 the work failed, 2 the request was wrong.
"""

import datetime as dt
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Abort, Argument, Option
from typer.exceptions import TyperException

import tuner
from tuner.cli import dashboard, results, ship, versions
from tuner.cli.parameters import (
    Address,
    AllowCode,
    AnyStudy,
    Artifacts,
    AsJson,
    AsYaml,
    Cache,
    CacheLimit,
    ConfigFile,
    CpusPerWorker,
    DataPath,
    Earlier,
    EarlierStorage,
    Engine,
    GpusPerWorker,
    HangLimit,
    MemoryLimit,
    Now,
    OneByOne,
    OneTrial,
    OneWorker,
    SlotsPerGpu,
    Storage,
    StudyFile,
    StudyName,
    Threads,
    Wait,
    Workers,
)
from tuner.commands import storage_url
from tuner.errors import TunerError
from tuner.terminal import plain

_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:/@]*):[^\s@]*@")


def complain(message: str, exit_code: int) -> int:
    """Print a message to stderr; gives the exit code back."""
    plain.line(blot(message))
    return exit_code


def blot(text: str) -> str:
    """A text in which the passwords of URLs cannot be read."""
    return _PASSWORD.sub(r"\1:***@", text)


def usage(error: TyperException) -> str:
    """What is wrong with a command line, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tuner"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message}. See {command} --help."


def record(error: Exception) -> str:
    """One line for a fault of ours; the traceback goes to a file."""
    from tuner.commands import options

    cache = options.cache(None)
    text = blot("".join(traceback.format_exception(error)))
    name = f"error-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    where = f"the whole story is in {cache / name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(text)
    except OSError:
        where = f"its last line of code: {traceback.format_tb(error.__traceback__)[-1].strip().splitlines()[0]}"
    first = (str(error).splitlines() or [""])[0]
    return f"tuner has a fault: {type(error).__name__}: {first}; {where}"


def stop_printing() -> int:
    """Whoever read our output has left; let the interpreter's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


app = typer.Typer(
    name="tuner",
    help="Find the hyperparameters with which a pretrained Keras model learns your images best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(dashboard.app, name="dashboard")
app.add_typer(ship.app)
app.add_typer(versions.app)
app.add_typer(results.app)

DEFAULT_STORAGE = storage_url.STORAGE
DEFAULT_ARTIFACTS = storage_url.ARTIFACTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code of the process."""
    try:
        return int(app(arguments, prog_name="tuner", standalone_mode=False) or 0)
    except TunerError as error:
        return complain(str(error), error.exit_code)
    except TyperException as error:
        return complain(usage(error), error.exit_code)
    except (KeyboardInterrupt, Abort):
        return 130
    except BrokenPipeError:
        return stop_printing()
    except Exception as error:
        return complain(record(error), 1)


@app.callback(invoke_without_command=True)
def _tuner(version: Annotated[bool, Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        print(f"tuner {tuner.__version__}")
        raise typer.Exit


@app.command()
def init(
    name: Annotated[str, Argument(metavar="NAME", help="Name of the new study.", show_default=False)],
    images: Annotated[Path, Option(metavar="FOLDER", help="Folder with one sub-folder of images a class.", show_default=False)],
    to: Annotated[Path | None, Option(metavar="FILE", help="Study file to write.", show_default="studies/NAME.yaml")] = None,
    cache: Cache = None,
) -> int:
    """Write a study file for a folder of images."""
    from tuner.commands import check as commands_check
    from tuner.commands import options

    return commands_check.init(name, images, to or Path("studies") / f"{name}.yaml", options.cache(cache))


@app.command()
def check(study_file: StudyFile, cache: Cache = None) -> int:
    """Show every mistake of a study file, what it searches, and what that will cost."""
    from tuner.commands import check as commands_check
    from tuner.commands import options

    return commands_check.check(study_file, options.cache(cache))


@app.command()
def run(
    study_file: StudyFile,
    workers: Workers = None,
    trials: Annotated[int | None, Option(metavar="N", help="Trials of the study, over all its runs.", show_default="the file's")] = None,
    timeout: Annotated[str | None, Option(metavar="TIME", help="Time for the study, e.g. 90s, 1h30m.", show_default="the file's")] = None,
    target: Annotated[float | None, Option(metavar="X", help="Validation accuracy that suffices.", show_default="the file's")] = None,
    earlier: Earlier = None,
    from_storage: EarlierStorage = None,
    storage: Storage = DEFAULT_STORAGE,
    dashboard: Annotated[bool, Option("--dashboard", help="Serve the dashboard while the study runs.")] = False,
    port: Annotated[
        int | None,
        Option(min=0, max=65535, metavar="PORT", help="Port of the dashboard; 0: any.", show_default="8080, or any if that is taken"),
    ] = None,
    to: Annotated[Path | None, Option(metavar="FILE", help="Where the best config is exported.", show_default="NAME-best.yaml")] = None,
    export: Annotated[bool, Option("--export/--no-export", help="Export the best config at the end.")] = True,
    threads: Threads = None,
    hang_limit: HangLimit = None,
    memory_limit: MemoryLimit = None,
    slots_per_gpu: SlotsPerGpu = None,
    engine: Engine = "local",
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> int:
    """Create a study, or go on with it, and work on it until its budget is spent."""
    from tuner.commands import engines, options
    from tuner.commands import run as commands_run

    options.limit_cache(cache_limit)
    places = options.places(cache, artifacts)
    wanted = engines.EngineOptions(
        engine=engine, workers=workers, threads=threads, hang_limit=hang_limit, memory_limit=memory_limit, slots_per_gpu=slots_per_gpu,
        address=address, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker,
    )  # fmt: skip
    budget = options.BudgetOptions(trials=trials, timeout=timeout, target=target)
    asked = commands_run.SearchOptions(file=study_file, budget=budget, earlier=earlier or (), earlier_storage=from_storage)
    exported = commands_run.ExportTarget(wanted=export, path=to)
    shown = commands_run.Dashboard(wanted=dashboard, port=port)
    return commands_run.run(asked, storage, places=places, engine=wanted, dashboard=shown, exported=exported)


@app.command()
def worker(
    study: Annotated[
        str,
        Argument(metavar="STUDY|FILE", help="Study file, or the name of a study that is in the storage.", show_default=False),
    ],
    storage: Storage = DEFAULT_STORAGE,
    data: DataPath = None,
    allow_code: AllowCode = None,
    wait: Wait = None,
    threads: Threads = None,
    hang_limit: HangLimit = None,
    memory_limit: MemoryLimit = None,
    slots_per_gpu: SlotsPerGpu = None,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> int:
    """Be one more worker of a study, from any terminal or machine that reaches the storage."""
    from tuner.commands import options, origin
    from tuner.commands import worker as commands_worker

    options.limit_cache(cache_limit)
    hands = options.hands(1, threads, hang_limit, memory_limit, slots_per_gpu)
    place = origin.Here(data=data, allowed_code=origin.read_code(allow_code), wait_seconds=options.wait_seconds(wait))
    return commands_worker.worker(study, storage, here=place, places=options.places(cache, artifacts), hands=hands)


@app.command()
def status(study: AnyStudy = None, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Show how far the studies are."""
    from tuner.commands import show

    return show.show_status(study, storage, as_json=as_json)


@app.command()
def watch(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Watch a study live, from any terminal that reaches the storage."""
    from tuner.commands import show

    return show.watch(study, storage, as_json=as_json)


@app.command()
def stop(study: StudyName, now: Now = False, trial: OneTrial = None, worker: OneWorker = None, storage: Storage = DEFAULT_STORAGE) -> int:
    """Stop a study wherever it runs, or one of its trials or workers."""
    from tuner.commands import control

    return control.stop(study, storage, now=now, trial=trial, worker=worker)


@app.command()
def resume(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> int:
    """Let a study go on that was stopped."""
    from tuner.commands import control

    return control.resume(study, storage)


@app.command()
def enqueue(
    study: StudyName,
    file: ConfigFile = None,
    values: OneByOne = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Have the next free worker of a study try hyperparameters of your own."""
    from tuner.commands import control

    return control.enqueue(study, storage, file, values or [])


@app.command()
def best(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False, as_yaml: AsYaml = False) -> int:
    """Print the best trial of a study."""
    from tuner.commands import options, show

    return show.show_best(study, storage, form=options.form(as_json=as_json, as_yaml=as_yaml))


@app.command("cache")
def cached(
    action: Annotated[Literal["show", "clear"], Argument(help="Whether to show the entries, or to delete them.")] = "show",
    kind: Annotated[str | None, Option(metavar="KIND", help="Only entries of a kind, e.g. images.", show_default="all")] = None,
    older_than: Annotated[str | None, Option(metavar="TIME", help="Only those not used for so long, e.g. 7d.", show_default="all")] = None,
    study: Annotated[str | None, Option(metavar="STUDY", help="Only those made for a study.", show_default="all")] = None,
    yes: Annotated[bool, Option("--yes", help="Delete without asking.")] = False,
    as_json: AsJson = False,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> int:
    """Show what the cache holds, or clear it."""
    from tuner.commands import maintenance, options

    options.limit_cache(cache_limit)
    folder = options.cache(cache)
    chosen = maintenance.Chosen(kind=kind, older_than=older_than, study=study)
    if action == "show":
        return maintenance.show(folder, chosen, as_json=as_json)
    return maintenance.clear(folder, chosen, confirmed=yes, as_json=as_json)


@app.command()
def doctor(
    storage: Storage = DEFAULT_STORAGE,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    cache: Cache = None,
    fix: Annotated[bool, Option("--fix", help="Mend what is safe to mend.")] = False,
    timeout: Annotated[float, Option(min=1, metavar="SECONDS", help="Time to wait for an answer.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Look at storage, folders, GPUs, memory and packages, and say what to do."""
    from tuner.commands import maintenance

    work = maintenance.mend if fix else maintenance.look
    return maintenance.tell(work(storage, artifacts, cache, timeout), as_json=as_json)


@app.command()
def schema() -> int:
    """Print the JSON Schema of a study file."""
    import json

    from tuner.spec import file as study_file

    print(json.dumps(study_file.json_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
