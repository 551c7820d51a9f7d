"""Limits: the settings of the pool, what each owner may use of it, and what each owner has used.

Every decision about the queue and the pool begins with `lock`, so only one is made at a time, on any machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, func, select, update

from tuner import wording
from tuner.errors import RequestError
from tuner.storage import attributes, optuna_private, tables
from tuner.storage.engine import Storage
from tuner.storage.tables import POOL_SETTINGS, QUEUE, TRIAL_USER, TRIALS, USAGE

#: owner in the table of usage that stands for idle workers
IDLE = ""
DAY_SECONDS = 86_400.0
_HOUR_SECONDS = 3_600.0
#: id of the only row of settings
_ROW = 1


class Over(StrEnum):
    """What happens to a submission of an owner who has reached a limit."""

    #: it is queued, and waits
    WAIT = "wait"
    #: it is refused
    REFUSE = "refuse"


class OwnerLimits(BaseModel):
    """What one owner may use of the pool; None: no limit."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: workers at the same time
    workers: int | None = Field(None, ge=0)
    #: ended trials in the last day
    trials_a_day: int | None = Field(None, ge=0)
    #: time of all workers together in the last day
    worker_hours_a_day: float | None = Field(None, ge=0)
    #: stored weights of all studies in the queue
    artifact_bytes: int | None = Field(None, ge=0)


class PoolSettings(BaseModel):
    """The settings of the pool, which an admin changes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: limits of owners that have limits of their own
    owners: dict[str, OwnerLimits] = {}
    #: limits of all other owners
    others: OwnerLimits = OwnerLimits()
    over: Over = Over.WAIT
    #: share of the pool by owner; 1 if it is not set
    weights: dict[str, float] = {}
    #: who stopped the whole pool; "": nobody
    stopped_by: str = ""

    def limits_of(self, owner: str) -> OwnerLimits:
        """Return the limits of an owner."""
        return self.owners.get(owner, self.others)

    def weight_of(self, owner: str) -> float:
        """Return the share of an owner."""
        return self.weights.get(owner, 1.0)


@dataclass(frozen=True, kw_only=True)
class OwnerUse:
    """What an owner uses of the pool."""

    #: time of all workers together in the last day
    seconds: float = 0.0
    #: trials that ended in the last day
    num_trials: int = 0
    #: workers now
    num_workers: int = 0
    #: stored weights; 0 if they are not limited
    artifact_bytes: int = 0


def exceeded(owner: str, use: OwnerUse, limits: OwnerLimits) -> str | None:
    """Return which limit an owner has reached, with the numbers; None if there is none."""
    if limits.workers is not None and use.num_workers >= limits.workers:
        return f"{owner} has {use.num_workers} of at most {wording.count(limits.workers, 'worker')}"
    if limits.trials_a_day is not None and use.num_trials >= limits.trials_a_day:
        return f"{owner} has used {use.num_trials} of {wording.count(limits.trials_a_day, 'trial')} a day"
    hours = use.seconds / _HOUR_SECONDS
    if limits.worker_hours_a_day is not None and hours >= limits.worker_hours_a_day:
        return f"{owner} has used {hours:.1f} of {limits.worker_hours_a_day:g} worker hours a day"
    if limits.artifact_bytes is not None and use.artifact_bytes >= limits.artifact_bytes:
        return f"{owner} stores {use.artifact_bytes / 2**30:.1f} of {limits.artifact_bytes / 2**30:g} GB of artifacts"
    return None


def read(connection: Connection) -> PoolSettings:
    """Return the settings."""
    text = connection.execute(select(POOL_SETTINGS.c.settings).where(POOL_SETTINGS.c.id == _ROW)).scalar()
    return PoolSettings() if text is None else PoolSettings.model_validate_json(text)


def lock(connection: Connection) -> PoolSettings:
    """Return the settings; until the transaction ends, no one else decides anything about the queue or the pool."""
    query = select(POOL_SETTINGS.c.settings).where(POOL_SETTINGS.c.id == _ROW).with_for_update()
    text = connection.execute(query).scalar()
    if text is None:
        tables.add_missing(connection, POOL_SETTINGS, "id", id=_ROW, settings=PoolSettings().model_dump_json())
        text = connection.execute(query).scalar_one()
    return PoolSettings.model_validate_json(text)


def change(storage: Storage, changed: Callable[[PoolSettings], PoolSettings]) -> PoolSettings:
    """Change the settings, and return them."""

    def write(connection: Connection) -> PoolSettings:
        settings = changed(lock(connection))
        connection.execute(update(POOL_SETTINGS).where(POOL_SETTINGS.c.id == _ROW).values(settings=settings.model_dump_json()))
        return settings

    return storage.write(write)


def stop(storage: Storage, *, by: str) -> None:
    """Stop the whole pool: running trials are suspended, and none starts."""
    change(storage, lambda settings: settings.model_copy(update={"stopped_by": by}))


def start(storage: Storage) -> None:
    """Start the pool again after `stop`."""
    change(storage, lambda settings: settings.model_copy(update={"stopped_by": ""}))


def set_limits(storage: Storage, owner: str | None, **changes: Any) -> OwnerLimits:
    """Change limits of an owner, or of all owners without limits of their own; None removes a limit.

    Raises:
        RequestError: there is no such limit, or it is not a number of at least 0.
    """
    unknown = next((name for name in changes if name not in OwnerLimits.model_fields), None)
    if unknown is not None:
        raise RequestError(f"{unknown} is not a limit of the pool. {wording.known(list(OwnerLimits.model_fields), unknown)}")

    def changed(settings: PoolSettings) -> PoolSettings:
        before = settings.others if owner is None else settings.limits_of(owner)
        try:
            limits = OwnerLimits.model_validate(before.model_dump() | changes)
        except ValidationError as error:
            first = error.errors()[0]
            raise RequestError(f"the limit {first['loc'][0]} is {wording.show(first['input'])}; expected a number of at least 0") from error
        if owner is None:
            return settings.model_copy(update={"others": limits})
        return settings.model_copy(update={"owners": settings.owners | {owner: limits}})

    settings = change(storage, changed)
    return settings.others if owner is None else settings.limits_of(owner)


def set_weight(storage: Storage, owner: str, weight: float) -> None:
    """Set the share of an owner.

    Raises:
        RequestError: it is not above 0.
    """
    if not 0 < weight < float("inf"):
        raise RequestError(f"the weight of {owner} is {weight:g}; expected a number above 0")
    change(storage, lambda settings: settings.model_copy(update={"weights": settings.weights | {owner: weight}}))


def count(connection: Connection, owner: str, now: float, *, seconds: float, num_trials: int = 0) -> None:
    """Add time of a worker, and trials, to what an owner has used."""
    key = {"owner": owner, "hour": int(now // _HOUR_SECONDS)}
    tables.increase(connection, USAGE, key, {"seconds": seconds, "trials": num_trials})


def used(connection: Connection, now: float, *, seconds: float = DAY_SECONDS) -> dict[str, OwnerUse]:
    """Return what each owner has used in the last day, or in other whole hours; `IDLE` is the time of idle workers."""
    first = int((now - seconds) // _HOUR_SECONDS) + 1
    query = select(USAGE.c.owner, func.sum(USAGE.c.seconds), func.sum(USAGE.c.trials)).where(USAGE.c.hour >= first).group_by(USAGE.c.owner)
    return {owner: OwnerUse(seconds=float(spent), num_trials=int(trials)) for owner, spent, trials in connection.execute(query)}


def artifact_bytes(connection: Connection, owner: str) -> int:
    """Return the size of the stored weights of all studies of an owner in the queue."""
    query = (
        select(TRIAL_USER.c.value_json)
        .join(TRIALS, TRIALS.c.trial_id == TRIAL_USER.c.trial_id)
        .join(QUEUE, QUEUE.c.study_id == TRIALS.c.study_id)
        .where(QUEUE.c.owner == owner, TRIAL_USER.c.key == attributes.WEIGHTS_BYTES)
    )
    sizes = [optuna_private.decoded(text) for text in connection.execute(query).scalars()]
    return sum(size for size in sizes if isinstance(size, int))


def usage(storage: Storage, *, seconds: float = DAY_SECONDS) -> Mapping[str, OwnerUse]:
    """Return what each owner has used in the last day, or in other whole hours."""
    return storage.read(lambda connection: used(connection, tables.clock(connection), seconds=seconds))
