"""Buckets: whether the bucket of the artifacts can be written, and which files of interrupted work it holds."""

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tuner import wording
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
#: the empty file with which a worker or tuner doctor tests that it can write
_TEST_FILE = re.compile(r"\.tuner-[0-9a-f]{8}")


def reachable(url: str) -> Iterator[Finding]:
    """Check that a small file can be written to the bucket, and tell what the bucket holds."""
    try:
        bucket = transfer.open_bucket(url)
        began = time.perf_counter()
        bucket.require()
        seconds = time.perf_counter() - began
        held = list(bucket.objects())
    except (ArtifactsError, MissingPackage) as error:
        yield findings.problem(_SUBJECT, str(error))
        return
    took = f"writing and deleting took {seconds:.2f} s"
    yield findings.ok(_SUBJECT, f"{url} at {bucket.endpoint} can be written; {took}; it holds {_count_and_size(held)}")


def interrupted_work(opened: Storage, url: str, *, age_seconds: float = AGE_SECONDS) -> Iterator[Finding]:
    """Find checkpoints of ended trials and incomplete uploads; `reachable` reports a bucket that cannot be used."""
    known = opened.read(artifacts.ends)
    try:
        bucket = transfer.open_bucket(url)
        found = find_interrupted(bucket, known, before=time.time() - age_seconds)
    except (ArtifactsError, MissingPackage):
        return
    if not found:
        yield findings.ok(artifacts.INTERRUPTED, f"no files of interrupted work in {url}")
        return
    yield Finding(
        subject=artifacts.INTERRUPTED,
        level=Level.NOTE,
        found=f"{_count_and_size(found)} of interrupted work in {url}",
        cure="delete them with tuner doctor --fix",
        fix=lambda: _delete(bucket, known, age_seconds),
    )


def find_interrupted(bucket: "Bucket", known: Ends, *, before: float) -> "list[Object]":
    """Return objects that were last written before a moment and that no trial can still need, as `artifacts.find_interrupted` does."""
    objects = [each for each in bucket.objects() if _TEST_FILE.fullmatch(each.key) or _is_over(each, known)]
    uploads = [each for each in bucket.unfinished() if re.search(r"(^|/)trial-\d+/[^/]+$", each.key)]
    return [each for each in (*objects, *uploads) if each.written_at < before]


def _is_over(checkpoint: "Object", known: Ends) -> bool:
    match = _CHECKPOINT.fullmatch(checkpoint.key)
    ended = known.get((match[1], int(match[2]))) if match else None
    return ended is not None and checkpoint.written_at < ended


def _delete(bucket: "Bucket", known: Ends, age_seconds: float) -> Finding:
    """Delete the objects that no trial needs, after looking for them again."""
    found = find_interrupted(bucket, known, before=time.time() - age_seconds)
    for each in found:
        if each.upload:
            bucket.abort_upload(each)
        else:
            bucket.remove(each.key)
    deleted = f"deleted {_count_and_size(found)} of interrupted work in {bucket.url}"
    return Finding(subject=artifacts.INTERRUPTED, level=Level.NOTE, found=deleted, fixed=bool(found))


def _count_and_size(found: "Sequence[Object]") -> str:
    """Return `2 files (1 KB)`."""
    return f"{wording.count(len(found), 'file')} ({entries.show_size(sum(each.num_bytes for each in found))})"
