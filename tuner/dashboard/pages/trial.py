"""Page of one trial: learning curve, confusion, hyperparameters beside those of the best trial, and attempts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request

from tuner import wording
from tuner.dashboard.pages import study
from tuner.dashboard.pages.rendering import LivePage, NotFound, Site, parse_whole
from tuner.drawing import charts
from tuner.spec.hyperparameters import Hyperparameters
from tuner.storage import tables
from tuner.storage.attributes import (
    BEST_EPOCHS,
    ERROR,
    EXECUTIONS,
    FINE_TUNE_SECONDS,
    FOLDS,
    LOGITS,
    MESSAGE,
    METRICS,
    PREPARED,
    PROBE_SECONDS,
    PROBE_VALUE,
    REASON,
    RESERVED,
    STAGE,
    TEST,
    TRAIN_ACCURACY,
    VALIDATION_LOSS,
    WEIGHTS,
    WEIGHTS_BYTES,
)
from tuner.views import trial as views_trial
from tuner.views.studies import Listed
from tuner.views.trial import Trial

#: attributes that are not listed: the page shows them elsewhere, or they are paths on a worker
_UNLISTED = (ERROR, LOGITS, MESSAGE, REASON, WEIGHTS, WEIGHTS_BYTES)
#: maximum length of a list among the attributes
_LONGEST = 2000
#: attributes that say nothing about a trial of user code, which has one stage, and its measures among the other metrics
_OF_IMAGES = (STAGE, PROBE_SECONDS, FINE_TUNE_SECONDS, TRAIN_ACCURACY, VALIDATION_LOSS)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A hyperparameter of a trial, beside its value in the best trial."""

    name: str
    value: Any
    best: Any
    #: whether it differs from the best trial, or, in the best trial, from the default
    differs: bool


def _read(site: Site, request: Request) -> Mapping[str, Any]:
    return site.reader.storage.read(lambda connection: _at(connection, site, request))


def _at(connection: Connection, site: Site, request: Request) -> Mapping[str, Any]:
    listed = study.find(connection, request)
    given = str(request.path_params["number"])
    number = parse_whole(given, otherwise=-1)
    trial = views_trial.read(connection, listed.id, number, listed.spec) if number >= 0 else None
    if trial is None:
        raise NotFound(f"Study {listed.name[:100]} has no trial {given[:100]}.")
    best = site.reader.at(connection, listed).history.best
    names = _classes(connection, listed)
    return {
        "listed": listed,
        "trial": trial,
        "state": study.listed_trial(trial.row).state,
        "best": best,
        "is_best": best is not None and best.number == number,
        "measured": charts.measured(trial.epochs, listed.spec),
        "reports": charts.reports(trial.row.curve) if not trial.epochs else None,
        "settings": _settings(connection, listed, trial, None if best is None else best.number),
        "attributes": _attributes(trial, listed),
        **charts.confusion(trial, names),
        "picture": site.artifacts is not None and "mistakes" in trial.pictures,
        "previous": number - 1 if number > 0 else None,
        "next": number + 1 if number + 1 < listed.num_trials else None,
    }


def _attributes(trial: Trial, listed: Listed) -> Mapping[str, Any]:
    """Return the attributes to list: of a trial of user code, those that the code has set come first."""
    found = {name: value for name, value in trial.attributes.items() if name not in _UNLISTED}
    # a list is no list of widths here
    own = {name: wording.show(value, longest=_LONGEST) if isinstance(value, list) else value for name, value in found.items()}
    if listed.spec is not None and listed.is_about_images and PROBE_VALUE in found:
        # the storage has the name of earlier versions, which had no other metric than the accuracy
        found = {f"probe_{listed.spec.objective.metric}" if name == PROBE_VALUE else name: value for name, value in found.items()}
    if listed.spec is None or listed.is_about_images:
        return found | {name: own[name] for name in (BEST_EPOCHS, EXECUTIONS, FOLDS) if name in own}
    ours = {name: value for name, value in found.items() if name in RESERVED}
    known = {name: value for name, value in ours.items() if name not in _OF_IMAGES}
    nested = {name: known.pop(name) for name in (METRICS, TEST) if name in known}
    measured = {name: value for name, value in wording.flatten(nested).items() if value is not None}
    more = {name: wording.figure(value) if isinstance(value, float) else value for name, value in measured.items()}
    return {name: value for name, value in own.items() if name not in ours} | known | more


def _classes(connection: Connection, listed: Listed) -> tuple[str, ...]:
    prepared = tables.get(connection, tables.STUDY_USER, listed.id, PREPARED).get(PREPARED)
    return tuple(prepared.get("classes", ())) if isinstance(prepared, dict) else ()


def _settings(connection: Connection, listed: Listed, trial: Trial, best: int | None) -> list[Setting]:
    """Return the hyperparameters of a trial, those that differ from the best trial or the defaults first.

    A trial that tuner did not make has its sampled parameters instead.
    """
    own = trial.parameters if trial.hyperparameters is None else views_trial.by_name(trial.hyperparameters)
    others: Mapping[str, Any]
    if trial.hyperparameters is None:
        others = tables.parameters(connection, tables.trial_id(connection, listed.id, best)) if best not in (None, trial.row.number) else {}
    elif best in (None, trial.row.number):
        others = wording.flatten(Hyperparameters().model_dump(mode="json")) if listed.is_about_images or listed.spec is None else {}
    else:
        others = views_trial.by_name(views_trial.hyperparameters(connection, listed.id, best))
    missing = object()
    found = [
        Setting(name=name, value=value, best=others.get(name), differs=others.get(name, missing) != value) for name, value in own.items()
    ]
    return sorted(found, key=lambda setting: not setting.differs)


PAGE = LivePage(
    path="/tuner/studies/{study_id}/trials/{number}",
    template="trial.html",
    parts={
        "headline": "trial/headline.html",
        "curve": "trial/curve.html",
        "attempts": "trial/attempts.html",
        "confusion": "confusion.html",
        "log": "trial/log.html",
        "settings": "trial/settings.html",
        "attributes": "trial/attributes.html",
    },
    read=_read,
)
