"""The page of all studies: a card each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from tuner.dashboard.pages.served import PageOf, Site, whole
from tuner.drawing import charts
from tuner.search import plan
from tuner.search.look import Look

_CARDS = 24


@dataclass(frozen=True, kw_only=True)
class Card:
    """A study in a few figures."""

    look: Look
    #: what is searched, in a line; "" where only Optuna knows
    what: str
    #: the best so far over the trials, as an SVG path
    line: str


def _card(look: Look) -> Card:
    spec = look.listed.spec
    what = "" if spec is None else f"{spec.data.source} on {spec.model.backbone}, {plan.budget(spec)}"
    return Card(look=look, what=what, line=charts.steps(look.history, look.listed.num_trials))


def _read(site: Site, request: Request) -> Mapping[str, Any]:
    number = whole(request.query_params.get("page"), otherwise=1, least=1, most=100_000)
    total, looks = site.looks.page(offset=(number - 1) * _CARDS, limit=_CARDS)
    return {"cards": [_card(look) for look in looks], "total": total, "number": number, "last": max(1, -(-total // _CARDS))}


PAGE = PageOf(path="/", template="studies.html", parts={"cards": "studies/cards.html"}, read=_read)
