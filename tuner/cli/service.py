"""Commands of the service: `tuner submit`, `queue`, `move`, `cancel`, `logs`, `drain` and `pool`."""

from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import DEFAULT_STORAGE, AsJson, Cache, DataRoot, Storage, StudyFile, StudyName

app = typer.Typer()
pool = typer.Typer(help="Show the pool, and change its limits.", invoke_without_command=True, no_args_is_help=False)
app.add_typer(pool, name="pool")

_Priority = Annotated[int, Option(metavar="N", help="A higher priority is served first.")]


@app.command()
def submit(
    study_file: StudyFile,
    priority: _Priority = 0,
    workers: Annotated[int, Option(min=1, metavar="N", help="Maximum number of workers at the same time.")] = 1,
    needs: Annotated[
        str | None, Option(metavar="LABELS", help="Labels that a worker must have, e.g. gpu,large or gpu:24GB.", show_default="none")
    ] = None,
    after: Annotated[
        list[str] | None, Option(metavar="STUDY", help="Study in the queue that must be done before (repeatable).", show_default="none")
    ] = None,
    from_winner: Annotated[bool, Option("--from-winner", help="Start with the best configuration of the studies in --after.")] = False,
    preempt: Annotated[
        bool, Option("--preempt", help="Take workers from lower priorities at once. Their trials are suspended and resume later.")
    ] = False,
    owner: Annotated[str | None, Option(metavar="NAME", help="User or team that the study belongs to.", show_default="you")] = None,
    key: Annotated[
        str | None, Option(metavar="KEY", help="Idempotency key: a second submission with it changes nothing.", show_default="none")
    ] = None,
    data_root: DataRoot = None,
    storage: Storage = DEFAULT_STORAGE,
    cache: Cache = None,
    as_json: AsJson = False,
) -> int:
    """Check a study file, and queue its study for the workers of the pool.

    Examples: tuner submit studies/flowers.yaml --priority 5 --workers 4
    tuner submit studies/roses.yaml --after flowers --from-winner
    """
    from tuner.commands import options
    from tuner.commands import service as commands_service

    asked = commands_service.SubmitOptions(
        priority=priority, workers=workers, needs=needs, after=after or (), from_winner=from_winner, preempt=preempt, owner=owner,
        key=key, data_root=data_root,
    )  # fmt: skip
    return commands_service.submit(study_file, storage, asked, cache=options.cache_folder(cache), as_json=as_json)


@app.command()
def queue(
    everything: Annotated[bool, Option("--all", help="Show ended studies, too.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Show the studies in the queue, and why each waits."""
    from tuner.commands import service as commands_service

    return commands_service.show_queue(storage, everything=everything, as_json=as_json)


@app.command()
def move(
    study: StudyName,
    priority: Annotated[int | None, Option(metavar="N", help="New priority.", show_default="unchanged")] = None,
    place: Annotated[
        int | None, Option(min=1, metavar="N", help="Place among the studies of its owner and priority.", show_default="unchanged")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Change the priority of a study in the queue, or its place."""
    from tuner.commands import service as commands_service

    return commands_service.move(study, storage, priority=priority, place=place)


@app.command()
def cancel(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> int:
    """Cancel a study in the queue; its running trials are suspended."""
    from tuner.commands import service as commands_service

    return commands_service.cancel(study, storage)


@app.command()
def logs(
    study: StudyName,
    trial: Annotated[int | None, Option(min=0, metavar="N", help="Only this trial, with its epochs.", show_default="all")] = None,
    follow: Annotated[bool, Option("--follow", help="Wait for more lines until the study has ended.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Print what happened in a study, on any machine."""
    from tuner.commands import service as commands_service

    return commands_service.show_logs(study, storage, trial=trial, follow=follow)


@app.command()
def drain(
    worker: Annotated[str, Argument(metavar="HOST|WORKER", help="Host whose workers leave, or one worker.", show_default=False)],
    now: Annotated[bool, Option("--now", help="Suspend running trials. They resume elsewhere.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Let the workers of a host, or one worker, leave the pool after their trials."""
    from tuner.commands import service as commands_service

    return commands_service.drain(worker, storage, now=now)


@pool.callback(invoke_without_command=True)
def show(context: typer.Context, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Show the workers of the pool, what each owner used in the last day, and the limits."""
    if context.invoked_subcommand is not None:
        return 0
    from tuner.commands import service as commands_service

    return commands_service.show_pool(storage, as_json=as_json)


@pool.command("stop")
def stop_pool(storage: Storage = DEFAULT_STORAGE) -> int:
    """Stop everything: suspend all running trials of the pool, and start none."""
    from tuner.commands import service as commands_service

    return commands_service.stop_pool(storage)


@pool.command("start")
def start_pool(storage: Storage = DEFAULT_STORAGE) -> int:
    """Start the pool again after `tuner pool stop`."""
    from tuner.commands import service as commands_service

    return commands_service.start_pool(storage)


@pool.command("limit")
def limit_pool(
    owner: Annotated[str | None, Argument(metavar="OWNER", help="Default: every owner without own limits.", show_default=False)] = None,
    workers: Annotated[int | None, Option(metavar="N", help="Workers at the same time. -1: no limit.", show_default="unchanged")] = None,
    trials: Annotated[int | None, Option(metavar="N", help="Trials a day. -1: no limit.", show_default="unchanged")] = None,
    hours: Annotated[float | None, Option(metavar="N", help="Worker hours a day. -1: no limit.", show_default="unchanged")] = None,
    artifacts: Annotated[str | None, Option(metavar="SIZE", help="Stored weights, e.g. 50GB, or none.", show_default="unchanged")] = None,
    weight: Annotated[float | None, Option(metavar="X", help="Share of the owner.", show_default="unchanged")] = None,
    over: Annotated[
        Literal["wait", "refuse"] | None, Option(help="What happens to submissions over a limit.", show_default="unchanged")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Limit what an owner may use of the pool."""
    from tuner.commands import service as commands_service

    changes = commands_service.LimitChanges(workers=workers, trials=trials, hours=hours, artifacts=artifacts, weight=weight, over=over)
    return commands_service.limit_pool(owner, storage, changes)
