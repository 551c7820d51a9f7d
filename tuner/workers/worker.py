"""The loop of one worker: claim a trial, train it, keep what came of it, until the budget is spent or someone says stop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tuner import messages
from tuner.errors import LeaseLost, StorageError
from tuner.messages import Ending
from tuner.search import admission, progress, trials
from tuner.search.study import Study
from tuner.search.trials import Claim, WorkerId
from tuner.workers.attempt import Attempt
from tuner.workers.events import Happening, Tell
from tuner.workers.heartbeat import BEAT_SECONDS, Heartbeat
from tuner.workers.narrator import Narrator
from tuner.workers.places import Places
from tuner.workers.stopping import Stopping
from tuner.workers.trainer import TrainerDied
from tuner.workers.warm import TrainerHung, WarmTrainer, request_error

#: how often a trial is begun before its deaths count as a failure
_TRIES = 2
#: how long the begin and the end of a trial wait for a storage that is away
_STORAGE_PATIENCE_SECONDS = 600.0

Outcome = messages.Finished | messages.Failed
T = TypeVar("T")


class Worker:
    """One pair of hands of a study."""

    def __init__(self, study: Study, trainer: WarmTrainer, *, identity: WorkerId, places: Places, stopping: Stopping, tell: Tell) -> None:
        self._study = study
        self._trainer = trainer
        self._identity = identity
        self._places = places
        self._stopping = stopping
        self._narrator = Narrator(study.name, identity.name, tell)
        self._prepare = messages.Prepare(spec=study.spec.model_dump_json(), cache=str(places.cache))
        self._prepared: messages.Prepared | None = None

    def run(self, *, beat_seconds: float = BEAT_SECONDS) -> None:
        """Work until there is nothing more to do; raises what `WarmTrainer.warm_up`, `admission.admit` and `trials.claim` raise."""
        try:
            with Heartbeat(self._beat, self._narrator.trouble, every_seconds=beat_seconds):
                self._work_until_done()
        finally:
            if self._stopping.is_asked:
                self._trainer.drop()  # what it is doing now, no one waits for
            self._trainer.close()
        self._narrator.say(Happening.ENDED, message=self._why_ended())

    def _why_ended(self) -> str:
        if self._stopping.is_asked:
            return "asked to stop"
        try:
            return trials.stop_reason(self._study) or ""
        except StorageError:
            return ""  # all that was to be written is written

    def _work_until_done(self) -> None:
        while not self._stopping.is_asked and self._is_ready():
            claim = self._claim()
            if claim is None:
                return
            self._work_on(claim)

    def _is_ready(self) -> bool:
        """Have a trainer that is prepared and not too big; False if the worker is asked to stop meanwhile."""
        outgrown = self._trainer.outgrown()
        if outgrown:
            self._narrator.say(Happening.REPLACED, message=outgrown)
            self._trainer.drop()
        if not self._trainer.is_warm:
            self._prepared = prepared = self._trainer.warm_up(self._prepare)
            if prepared is not None:
                self._insist(lambda: admission.admit(self._study, prepared))
                self._narrator.say(Happening.READY, seconds=prepared.seconds, message=prepared.device)
        return self._trainer.is_warm

    def _claim(self) -> Claim | None:
        assert self._prepared is not None
        sizes = {"num_train": self._prepared.num_train, "num_classes": len(self._prepared.classes), "epochs": self._prepared.epochs}
        try:
            return self._insist(
                lambda: trials.claim(self._study, self._identity, **sizes),
                what="the next trial waits",
                unless=lambda: self._stopping.is_asked,
            )
        except StorageError:
            if self._stopping.is_asked:
                return None
            raise

    def _work_on(self, claim: Claim) -> None:
        began = time.monotonic()
        self._narrator.say(Happening.STARTED if claim.attempt == 1 else Happening.RESUMED, claim.number)
        folder = self._places.of_trial(self._study.name, claim.number)
        outcome, curve = self._play(claim, folder)
        seconds = time.monotonic() - began
        try:
            self._settle(claim, outcome, curve, seconds)
        except LeaseLost as error:
            self._narrator.say(Happening.LOST, claim.number, seconds=seconds, message=str(error))

    def _settle(self, claim: Claim, outcome: Outcome | None, curve: list[messages.Epoch], seconds: float) -> None:
        match outcome:
            case messages.Finished() if outcome.ending is not Ending.SUSPENDED:
                kept = self._keep_if_best(outcome)
                self._insist(lambda: self._finish(claim, kept, curve))
                if outcome.weights is not None and kept.weights is None:  # only now it is sure that the trial was still ours
                    Path(outcome.weights).unlink(missing_ok=True)
                what = Happening.COMPLETED if outcome.ending is Ending.COMPLETED else Happening.PRUNED
                self._narrator.say(what, claim.number, value=outcome.value, seconds=seconds, message=outcome.reason)
            case messages.Failed():
                self._insist(lambda: trials.fail(self._study, claim, outcome))
                message = f"{outcome.error}: {outcome.message}"
                self._narrator.say(Happening.FAILED, claim.number, seconds=seconds, message=message)
                if outcome.is_request:
                    raise request_error(outcome)
            case _:
                self._insist(lambda: trials.release(self._study, claim))
                self._narrator.say(Happening.SUSPENDED, claim.number, message="" if outcome else "from its last checkpoint")

    def _play(self, claim: Claim, folder: Path) -> tuple[Outcome | None, list[messages.Epoch]]:
        """The outcome of a trial and its curve; a trainer that dies is given a second chance."""
        failed: messages.Failed | None = None
        curve: list[messages.Epoch] = []
        for _ in range(_TRIES):
            if not self._is_ready():
                return None, curve
            attempt = Attempt(self._study, claim, self._trainer, self._stopping, self._narrator)
            curve = attempt.curve
            try:
                return attempt.play(folder), curve
            except (TrainerDied, TrainerHung) as error:
                self._trainer.drop()
                attempt.deliver()  # the next one goes on from a checkpoint that may lie behind them
                if self._stopping.is_asked:
                    return None, curve
                self._narrator.say(Happening.REPLACED, claim.number, message=str(error))
                failed = messages.Failed(trial=claim.number, error=error.cause, message=str(error))
                if isinstance(error, TrainerHung):
                    break
        return failed, curve

    def _keep_if_best(self, finished: messages.Finished) -> messages.Finished:
        """The same without weights for a trial that is not the best so far; trial 0's stay."""
        if finished.weights is None or finished.value is None or finished.trial == 0:
            return finished
        try:
            best = progress.snapshot(self._study).best_value
        except StorageError:
            return finished
        if best is None or finished.value >= best:
            return finished
        return finished.model_copy(update={"weights": None})

    def _finish(self, claim: Claim, finished: messages.Finished, curve: list[messages.Epoch]) -> None:
        assert self._prepared is not None
        trials.finish(self._study, claim, finished, curve, device=self._prepared.device)

    def _beat(self) -> None:
        trials.beat(self._study, self._identity)

    def _insist(self, work: Callable[[], T], *, what: str = "a result is kept", unless: Callable[[], bool] | None = None) -> T:
        """What `work` returns, tried again for as long as the storage may be away, `unless` that is no more wanted."""
        is_unwanted = unless or (lambda: self._stopping.is_urgent)
        deadline = time.monotonic() + _STORAGE_PATIENCE_SECONDS
        pause_seconds = 0.5
        while True:
            try:
                return work()
            except StorageError as error:
                if is_unwanted() or time.monotonic() > deadline:
                    raise
                self._narrator.trouble(f"{what} until the storage is back: {error}")
            self._stopping.wait_for_more(pause_seconds)
            pause_seconds = min(10.0, 2 * pause_seconds)
