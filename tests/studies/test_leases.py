"""How a lease recognizes the process of its worker."""

import math

import pytest

from tuner.studies.leases import Lease, WorkerId


@pytest.mark.parametrize(
    ("moved_seconds", "is_vacant"),
    [(0.0, False), (1.0, False), (-1.0000002, False), (4.0, False), (60.0, True), (-60.0, True)],
)
def test_a_process_is_recognized_after_a_small_change_of_the_clock(moved_seconds: float, is_vacant: bool) -> None:
    here = WorkerId.here("w1")
    held = Lease(
        trial_number=0, trial_id=1, attempt=1, worker_key=here.key, worker=here.name, namespace=here.namespace, pid=here.pid,
        process_started=here.process_started + moved_seconds, started_at=0.0, seen_at=100.0, ended_at=None, ending="",
    )  # fmt: skip
    assert held.is_vacant(WorkerId.here("w2"), 100.0, steady_seconds=math.inf) is is_vacant
