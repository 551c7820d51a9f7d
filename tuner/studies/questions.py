"""Questions: the values for which user code asks while its trial runs. A name has one value in all attempts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from sqlalchemy import Connection

from tuner import wording
from tuner.errors import LeaseLost
from tuner.protocol import messages
from tuner.sampling.suggestion import Suggestion
from tuner.spec.hyperparameters import ChosenValues
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import HYPERPARAMETERS
from tuner.storage.tables import TRIAL_SYSTEM
from tuner.studies import claims, leases
from tuner.studies.claims import Claim
from tuner.studies.study import Study
from tuner.tasks import task


class TrialQuestions:
    """The questions of one attempt at a trial."""

    def __init__(self, study: Study, claim: Claim) -> None:
        self._study, self.claim = study, claim
        self._suggestion: Suggestion | None = None
        #: distributions of the values that are stored
        self._stored: Mapping[str, BaseDistribution] | None = None
        if study.memory.suggested is not None and study.memory.suggested[0] == claim.trial_id:
            self._stored = study.memory.suggested[1]
        #: the values that the code has asked for
        self._asked: dict[str, Any] = {}

    def answer(self, question: messages.Ask) -> messages.Answer:
        """Return the value of a parameter: the stored one, else one that the sampler chooses and that is stored before it is returned.

        Raises:
            LeaseLost: another worker has the trial now.
            StorageError: the storage does not answer; the same question can be asked again.
        """
        try:
            wanted = _distribution(question)
        except ValueError as error:
            return messages.Answer(refusal=str(error))
        known = self._known()
        if question.name in known and self._fits(question.name, wanted):
            answer = messages.Answer(value=known[question.name])
        else:
            try:
                answer = self._choose(question.name, wanted)
            except ValueError as error:  # a value that the sampler or the storage cannot take
                return messages.Answer(refusal=f"no value can be chosen for {question.name}: {error}")
        if not answer.refusal:
            self._asked[question.name] = answer.value
        return answer

    def asked(self) -> dict[str, Any] | None:
        """Return the values that this attempt has used: those of the study file, and those that its code asked for.

        None: this study's code does not ask.
        """
        about = task.spec(self._study.spec.task)
        if not about.asks_while_running(self._study.spec):
            return None
        declared = {row.name for row in about.rows(self._study.spec)}
        return {name: value for name, value in self._known().items() if name in declared} | self._asked

    def _known(self) -> dict[str, Any]:
        chosen = self.claim.hyperparameters
        assert isinstance(chosen, ChosenValues), "only user code asks for values"
        return chosen.values

    def _fits(self, name: str, wanted: BaseDistribution) -> bool:
        """Return whether the value that is stored for a parameter is one of those that are asked for."""
        if self._stored is None:
            self._stored = self._study.storage.read(lambda connection: tables.distributions(connection, self.claim.trial_id))
        stored = self._stored.get(name)
        return stored is None or stored == wanted  # a value that the study file fixes has no distribution

    def _choose(self, name: str, wanted: BaseDistribution) -> messages.Answer:
        study, claim = self._study, self.claim
        # a value that was chosen beforehand is not one of those that this trial asks for, so another one is chosen
        given = {key: value for key, value in self._known().items() if key != name}
        if self._suggestion is None or name in self._known():
            self._suggestion = study.storage.call(lambda: claims.open_suggestion(study, claim.number, claim.trial_id, given, asked=name))
        suggestion = self._suggestion
        value = study.storage.call(lambda: suggestion.of(name, wanted))
        if not _can_be(wanted, value):
            return messages.Answer(refusal=f"the trial was enqueued with {name} {wording.show(value)}, which the code does not allow")

        def write(connection: Connection) -> messages.Answer:
            if not leases.hold(connection, study.id, trial_number=claim.number, attempt=claim.attempt, worker_key=claim.worker_key):
                raise LeaseLost(f"trial {claim.number} was given to another worker")
            earlier = tables.earlier_distribution(connection, study.id, name, besides=claim.trial_id)
            if earlier is not None:
                try:
                    check_distribution_compatibility(earlier, wanted)
                except ValueError as error:
                    return messages.Answer(refusal=f"the parameter {name} had other possible values in earlier trials: {error}")
            tables.remove_parameter(connection, claim.trial_id, name)
            tables.put_parameters(connection, claim.trial_id, {name: value}, {name: wanted})
            chosen = ChosenValues(values=self._known() | {name: value})
            tables.put(connection, TRIAL_SYSTEM, claim.trial_id, {HYPERPARAMETERS: chosen.model_dump(mode="json")})
            return messages.Answer(value=value)

        answer = study.storage.write(write)
        study.memory.suggested = self._stored = None  # the trial has other values now
        if not answer.refusal:
            self.claim = replace(claim, hyperparameters=ChosenValues(values=self._known() | {name: value}))
        return answer


def _can_be(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution can give a value; an enqueued one is given as it is."""
    try:
        return optuna_private.contains(distribution, value)
    except (ValueError, TypeError):
        return False


def _distribution(question: messages.Ask) -> BaseDistribution:
    """Return Optuna's distribution of a question.

    Raises:
        ValueError: the range is empty, or a logarithmic scale does not allow it.
    """
    if question.low is None or question.high is None:
        return CategoricalDistribution(question.choices)
    if question.integer:
        step = 1 if question.step is None else int(question.step)
        return IntDistribution(int(question.low), int(question.high), log=question.log, step=step)
    return FloatDistribution(question.low, question.high, log=question.log, step=question.step)
