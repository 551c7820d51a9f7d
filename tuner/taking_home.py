"""The commands that take a search's result home, into calls: they stand beside the others of `tuner`."""

from typing import Annotated, Literal

import typer
from typer import Option

from tuner.commands import defaults
from tuner.commands.parameters import (
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

app = typer.Typer()


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
    storage: Storage = defaults.STORAGE,
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
    artifacts: Artifacts = defaults.ARTIFACTS,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> int:
    """Train a study's best configs again, choose one, and measure it once on the test split: a version."""
    from tuner.commands import engines, here, options, retraining

    options.limit_cache(cache_limit)
    wanted = engines.Wanted(
        engine=engine, workers=workers, threads=threads, hang_limit=hang_limit, memory_limit=memory_limit, slots_per_gpu=slots_per_gpu,
        address=address, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker,
    )  # fmt: skip
    place = here.Here(data=data, allowed_code=here.read_code(allow_code), wait_seconds=0.0)
    asked = retraining.Asked(top=top, seeds=seeds, on=on)
    return retraining.retrain(study, storage, asked, here=place, places=options.places(cache, artifacts), engine=wanted, as_json=as_json)
