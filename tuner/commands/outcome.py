"""What the workers of a run said and how they ended, into the error of a study that they left before its end."""

from collections.abc import Sequence

from tuner.errors import RequestError, TunerError
from tuner.search import budget, progress, trials
from tuner.search.budget import Standing
from tuner.search.study import Study
from tuner.workers.events import Event, Happening

#: what a worker says that cannot go on
COMPLAINTS = (Happening.REFUSED, Happening.GAVE_UP)


def failure(study: Study, complaints: Sequence[Event], codes: Sequence[int]) -> TunerError | None:
    """Why the study did not come to its end: what its workers found wrong with the request, or with the work; None if it did.

    A worker that could not go on is forgiven where others finished the study.
    """
    if not (complaints or any(codes)) or is_over(study):
        return None
    refused = next((event.message for event in complaints if event.what is Happening.REFUSED), None)
    if refused is not None:
        return RequestError(refused)
    why = complaints[0].message if complaints else f"a worker ended with exit code {next(filter(None, codes))}"
    return TunerError(f"The workers gave up before the study came to its end: {why}")


def is_over(study: Study) -> bool:
    """Whether no trial is left, neither to begin nor to end."""
    seen = progress.snapshot(study)
    standing = Standing(
        num_trials=seen.num_ended,
        best_value=seen.best_value,
        busy_seconds=seen.busy_seconds,
        stopped=trials.stopped(study),
        halted=seen.halted_by,
    )
    if budget.decide_to_end(study.spec.budget, standing) is not None:
        return True
    return seen.stop_reason is not None and not seen.running and not seen.num_waiting
