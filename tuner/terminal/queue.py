"""Screens about the service: the queue, and the workers of the pool."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tuner import wording
from tuner.queue import limits
from tuner.queue.entries import Entry, QueueState
from tuner.queue.limits import OwnerLimits, OwnerUse, PoolSettings
from tuner.queue.pool import PoolMember
from tuner.terminal import printing

_STYLES = {QueueState.RUNNING: "strong", QueueState.FAILED: "bad", QueueState.CANCELLED: "quiet", QueueState.DONE: "good"}


def queue_table(found: Sequence[Entry], explained: Mapping[int, str]) -> RenderableType:
    """Show one row for each study, in the order in which they are served."""
    rows = printing.table("study", "state", "priority", "owner", "workers", "submitted", "why", right=("priority", "workers"))
    for one in found:
        rows.add_row(
            one.name,
            Text(one.state.value, style=_STYLES.get(one.state, "")),
            str(one.priority),
            one.owner,
            f"{one.num_workers}/{one.num_wanted}",
            wording.moment(one.submitted_at),
            explained[one.study_id],
        )
    return rows


def as_json(found: Entry, why: str = "") -> dict[str, Any]:
    """Return a study in the queue as plain values."""
    return {
        "study": found.name,
        "state": found.state.value,
        "priority": found.priority,
        "position": found.position,
        "owner": found.owner,
        "workers": found.num_workers,
        "workers_wanted": found.num_wanted,
        "needs": list(found.needs),
        "after": list(found.after),
        "from_winner": found.takes_winner,
        "preempt": found.preempts,
        "submitted_at": found.submitted_at,
        "started_at": found.started_at,
        "ended_at": found.ended_at,
        "message": found.message,
        "why": why,
    }


def pool_screen(members: Sequence[PoolMember], used: Mapping[str, OwnerUse], settings: PoolSettings) -> Iterator[RenderableType]:
    """Show the workers of the pool, what owners used of it in the last day, and their limits."""
    if settings.stopped_by:
        yield Text(f"The pool was stopped by {settings.stopped_by}. Start it again with: tuner pool start", style="bad")
    present = [one for one in members if one.is_present]
    if present:
        yield printing.section("Workers", _workers(present))
    else:
        yield Text("The pool has no worker. Start one with: tuner worker --pool")
    owners = sorted(owner for owner in {*used, *settings.owners, *settings.weights} if owner != limits.IDLE)
    if owners:
        yield printing.section("Owners, last day", _owners(owners, used, settings))
    yield Text(f"Utilization of the last day: {_percent(utilization(used))}. Other owners: {limits_words(settings.others)}.")


def pool_as_json(members: Sequence[PoolMember], used: Mapping[str, OwnerUse], settings: PoolSettings) -> dict[str, Any]:
    """Return the pool as plain values."""
    return {
        "workers": [_member_as_json(one) for one in members if one.is_present],
        "owners": {
            owner: {"worker_hours": use.seconds / 3600, "trials": use.num_trials}
            for owner, use in sorted(used.items())
            if owner != limits.IDLE
        },
        "utilization": utilization(used),
        "settings": settings.model_dump(mode="json"),
    }


def utilization(used: Mapping[str, OwnerUse]) -> float | None:
    """Return the fraction of the workers' time that studies had; None if there was no worker."""
    total = sum(use.seconds for use in used.values())
    return None if not total else 1 - used.get(limits.IDLE, OwnerUse()).seconds / total


def limits_words(found: OwnerLimits) -> str:
    """Return the limits of an owner in words."""
    words = []
    if found.workers is not None:
        words.append(wording.count(found.workers, "worker"))
    if found.trials_a_day is not None:
        words.append(f"{wording.count(found.trials_a_day, 'trial')} a day")
    if found.worker_hours_a_day is not None:
        words.append(f"{found.worker_hours_a_day:g} worker hours a day")
    if found.artifact_bytes is not None:
        words.append(f"{found.artifact_bytes / 2**30:g} GB of artifacts")
    return f"at most {', '.join(words)}" if words else "no limits"


def _workers(present: Sequence[PoolMember]) -> RenderableType:
    rows = printing.table("worker", "study", "since", "labels", "data root", "request", "cannot serve")
    for one in present:
        rows.add_row(
            one.name,
            one.study or Text("idle", style="quiet"),
            wording.moment(one.since),
            ", ".join(one.abilities.labels),
            one.abilities.data_root,
            f"{one.request.value} by {one.requested_by}" if one.request.value else "",
            "; ".join(f"{study}: {reason}" for study, reason in list(one.refusals.items())[:3]),
        )
    return rows


def _owners(owners: Sequence[str], used: Mapping[str, OwnerUse], settings: PoolSettings) -> RenderableType:
    rows = printing.table("owner", "worker hours", "trials", "weight", "limits", right=("worker hours", "trials", "weight"))
    for owner in owners:
        use = used.get(owner, OwnerUse())
        weight = f"{settings.weight_of(owner):g}"
        rows.add_row(owner, f"{use.seconds / 3600:.1f}", str(use.num_trials), weight, limits_words(settings.limits_of(owner)))
    return rows


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.0f} %"


def _member_as_json(one: PoolMember) -> dict[str, Any]:
    return {
        "worker": one.name,
        "host": one.host,
        "study": one.study,
        "since": one.since,
        "trials": one.num_trials,
        "labels": list(one.abilities.labels),
        "gpu_memory_bytes": one.abilities.gpu_memory_bytes,
        "data_root": one.abilities.data_root,
        "packages": dict(one.abilities.packages),
        "seen_at": one.seen_at,
        "request": one.request.value,
        "refusals": dict(one.refusals),
    }
