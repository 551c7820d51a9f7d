"""Commands that run studies: `tuner run`, `worker`, `stop`, `resume`, `enqueue` and `migrate`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from tuner.cli.parameters import (
    DEFAULT_STORAGE,
    AcceptCode,
    AsJson,
    Cache,
    DataRoot,
    FolderOptions,
    FromStorage,
    LimitOptions,
    OriginOptions,
    RootPath,
    RunOptions,
    Storage,
    StudyName,
    Wait,
    with_groups,
)
from tuner.errors import RequestError

app = typer.Typer()


@app.command()
@with_groups
def run(
    study_file: Annotated[
        Path | None, Argument(metavar="[FILE]", help="Study file, for example studies/animals.yaml.", show_default=False)
    ] = None,
    *,
    objective: Annotated[
        str | None,
        Option(metavar="FILE:FUNCTION", help="Objective of Optuna to run instead of a study file.", show_default="none"),
    ] = None,
    name: Annotated[str | None, Option(metavar="STUDY", help="Name of the study of --objective.", show_default=False)] = None,
    direction: Annotated[str | None, Option(metavar="DIRECTION", help="maximize or minimize, for --objective.", show_default=False)] = None,
    trials: Annotated[int | None, Option(metavar="N", help="Number of trials, in all runs together.", show_default="the file's")] = None,
    timeout: Annotated[str | None, Option(metavar="TIME", help="Time limit, e.g. 90s or 1h30m.", show_default="the file's")] = None,
    target: Annotated[
        float | None, Option(metavar="X", help="Value that ends the study, for example an accuracy of 0.95.", show_default="the file's")
    ] = None,
    earlier: Annotated[
        list[str] | None,
        Option(
            "--from",
            metavar="STUDY|BUNDLE|FILE",
            help="Start with the best configurations of an earlier study, a bundle or an export (repeatable).",
            show_default="none",
        ),
    ] = None,
    from_storage: FromStorage = None,
    accept_code: AcceptCode = False,
    storage: Storage = DEFAULT_STORAGE,
    to: Annotated[
        Path | None, Option(metavar="FILE", help="File to export the best configuration to.", show_default="STUDY-best.yaml")
    ] = None,
    export: Annotated[bool, Option("--export/--no-export", help="Export the best configuration at the end.")] = True,
    dashboard: Annotated[bool, Option("--dashboard", help="Serve the dashboard while the study runs.")] = False,
    port: Annotated[
        int | None,
        Option(min=0, max=65535, metavar="PORT", help="Port of the dashboard. 0: any.", show_default="8080, or any if that is taken"),
    ] = None,
    root_path: RootPath = None,
    workers: RunOptions,
    limits: LimitOptions,
    folders: FolderOptions,
) -> int:
    """Create or resume a study, and train trials until its budget is spent."""
    from tuner.commands import options
    from tuner.commands import run as commands_run

    kept_in = folders.folders()
    budget = options.BudgetOptions(trials=trials, timeout=timeout, target=target)
    subject = commands_run.subject(study_file, objective=objective, name=name, direction=direction)
    asked = commands_run.SearchOptions(
        subject=subject, budget=budget, earlier=earlier or (), earlier_storage=from_storage, accept_code=accept_code
    )
    return commands_run.run(
        asked,
        storage,
        folders=kept_in,
        engine=workers.within(limits),
        dashboard=commands_run.RunDashboard(wanted=dashboard, port=port, root_path=root_path),
        exported=commands_run.ExportTarget(wanted=export, path=to),
    )


@app.command()
@with_groups
def worker(
    study: Annotated[
        str | None, Argument(metavar="STUDY|FILE", help="Name of a study in the storage, or a study file.", show_default=False)
    ] = None,
    *,
    pool: Annotated[bool, Option("--pool", help="Serve whatever study is next in the queue, instead of one study.")] = False,
    labels: Annotated[str | None, Option(metavar="LABELS", help="Labels of a pool worker, e.g. gpu,large.", show_default="none")] = None,
    data_root: DataRoot = None,
    leave_after: Annotated[
        str | None, Option(metavar="TIME", help="Let a pool worker end after so long without work, e.g. 10m.", show_default="never")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    wait: Wait = None,
    accept_code: AcceptCode = False,
    origin: OriginOptions,
    limits: LimitOptions,
    folders: FolderOptions,
) -> int:
    """Add one worker to a study, or to the pool, from any machine that reaches the storage."""
    from tuner.commands import options, service
    from tuner.commands import worker as commands_worker

    kept_in = folders.folders()
    plan = options.plan_workers(1, limits.threads, limits.hang_limit, limits.memory_limit, limits.slots_per_gpu)
    local = origin.local_settings(options.read_wait_seconds(wait), accept_code=accept_code)
    if pool == (study is not None):
        raise RequestError("expected either a study or --pool; write for example: tuner worker flowers, or tuner worker --pool")
    if study is None:
        asked = service.PoolOptions(labels=labels, data_root=data_root, leave_after=leave_after)
        return service.serve_pool(storage, asked, local=local, folders=kept_in, workers=plan)
    service.PoolOptions(labels=labels, data_root=None, leave_after=leave_after).require_none()  # the root may be in the environment
    return commands_worker.worker(study, storage, local=local, folders=kept_in, workers=plan)


@app.command()
def stop(
    study: StudyName,
    now: Annotated[bool, Option("--now", help="Suspend running trials, too. They resume from their checkpoints later.")] = False,
    trial: Annotated[int | None, Option(min=0, metavar="N", help="Stop only this trial.", show_default=False)] = None,
    worker: Annotated[str | None, Option(metavar="NAME", help="Stop only this worker, after its trial.", show_default=False)] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Stop a study on every machine, or one of its trials or workers."""
    from tuner.commands import control

    return control.stop(study, storage, now=now, trial=trial, worker=worker)


@app.command()
def resume(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> int:
    """Allow workers to resume a stopped study."""
    from tuner.commands import control

    return control.resume(study, storage)


@app.command()
def enqueue(
    study: StudyName,
    file: Annotated[Path | None, Argument(metavar="FILE", help="Hyperparameters in YAML, or an export.", show_default=False)] = None,
    values: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="Set one hyperparameter (repeatable).", show_default=False)
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Add a trial with hyperparameters that you choose."""
    from tuner.commands import control

    return control.enqueue(study, storage, file, values or [])


@app.command()
def migrate(
    study: StudyName,
    study_file: Annotated[Path, Argument(metavar="FILE", help="Study file with the changed search.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
    cache: Cache = None,
    as_json: AsJson = False,
) -> int:
    """Copy the trials of a study into a new study with a changed search."""
    from tuner.commands import migrate as commands_migrate
    from tuner.commands import options

    return commands_migrate.migrate(study, study_file, storage, cache=options.cache_folder(cache), as_json=as_json)
