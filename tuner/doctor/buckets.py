"""A bucket of artifacts into how well it serves, and the files that interrupted work left in it and no one needs."""

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tuner.cache import entries
from tuner.doctor import artifacts, findings
from tuner.doctor.artifacts import AGE_SECONDS, Ends
from tuner.doctor.findings import Finding, Level
from tuner.errors import ArtifactsError, MissingPackage
from tuner.storage.engine import Storage
from tuner.workers.bucket import transfer

if TYPE_CHECKING:
    from tuner.workers.bucket.bucket import Bucket, Object

_SUBJECT = "bucket"
_CHECKPOINT = re.compile(rf"([^/]+)/trial-(\d+)/{transfer.CHECKPOINT}")
#: what a worker or tuner doctor puts there for a moment, to see whether it may
_TRY = re.compile(r"\.tuner-[0-9a-f]{8}")


def look(url: str) -> Iterator[Finding]:
    """Whether it is there and can be written, by writing a little, and what it holds."""
    try:
        bucket = transfer.open_bucket(url)
        began = time.perf_counter()
        bucket.require()
        seconds = time.perf_counter() - began
        held = list(bucket.objects())
    except (ArtifactsError, MissingPackage) as error:
        yield findings.problem(_SUBJECT, str(error))
        return
    size = entries.show_size(sum(each.num_bytes for each in held))
    took = f"writing and deleting took {seconds:.2f} s"
    yield findings.ok(_SUBJECT, f"{url} at {bucket.endpoint} can be written; {took}; it holds {_count(held)} ({size})")


def left(opened: Storage, url: str) -> Iterator[Finding]:
    """Checkpoints of trials that have ended, and uploads that were broken off; a bucket that cannot be used is told of by `look`."""
    known = opened.read(artifacts.ends)
    try:
        bucket = transfer.open_bucket(url)
        found = find(bucket, known, before=time.time() - AGE_SECONDS)
    except (ArtifactsError, MissingPackage):
        return
    if not found:
        yield findings.ok(artifacts.LEFTOVERS, f"none in {url}")
        return
    yield Finding(
        subject=artifacts.LEFTOVERS,
        level=Level.NOTE,
        found=f"{_count(found)} ({_size(found)}) of interrupted work in {url}",
        cure="delete them with tuner doctor --fix",
        mend=lambda: _delete(bucket, known),
    )


def find(bucket: "Bucket", known: Ends, *, before: float) -> "list[Object]":
    """What was last written before a moment and belongs to no work that may go on, as `leftovers.find` has it of a folder."""
    whole = [each for each in bucket.objects() if _TRY.fullmatch(each.key) or _is_over(each, known)]
    parts = [each for each in bucket.unfinished() if re.search(r"(^|/)trial-\d+/[^/]+$", each.key)]
    return [each for each in (*whole, *parts) if each.written_at < before]


def _is_over(checkpoint: "Object", known: Ends) -> bool:
    match = _CHECKPOINT.fullmatch(checkpoint.key)
    ended = known.get((match[1], int(match[2]))) if match else None
    return ended is not None and checkpoint.written_at < ended


def _delete(bucket: "Bucket", known: Ends) -> Finding:
    """Delete what is a leftover still."""
    found = find(bucket, known, before=time.time() - AGE_SECONDS)
    for each in found:
        if each.upload:
            bucket.break_off(each)
        else:
            bucket.remove(each.key)
    said = f"deleted {_count(found)} ({_size(found)}) of interrupted work in {bucket.url}"
    return Finding(subject=artifacts.LEFTOVERS, level=Level.NOTE, found=said, fixed=bool(found))


def _size(found: "Sequence[Object]") -> str:
    return entries.show_size(sum(each.num_bytes for each in found))


def _count(found: "Sequence[Object]") -> str:
    return f"{len(found)} file{'' if len(found) == 1 else 's'}"
