"""Page of a new study: a study file, from a folder of data, from another study or written by hand, that is checked and submitted."""

import functools
from collections.abc import Mapping
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tuner import errors
from tuner.dashboard import service, submission
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.pages.queue_pages import QUEUE
from tuner.dashboard.pages.rendering import NotFound, Site, error_page, page, parse_whole, with_error_pages
from tuner.dashboard.submission import CheckedStudy, SubmissionRules
from tuner.errors import Problem
from tuner.spec import file as study_file
from tuner.spec.study import AnyStudySpec
from tuner.views import studies as views_studies

NEW, _SUBMIT = "/tuner/new", "/tuner/actions/submit"
#: the file that the page begins with
_EXAMPLE = """\
name: my_study

data:
  source: folder
  path: FOLDER

budget:
  trials: 40
"""
#: fields of the form that are whole numbers, and their defaults
_NUMBERS = {"priority": 0, "workers": 1}
_EMPTY = {"priority": "", "workers": "", "needs": "", "after": ""}


def form_routes(site: Site, rules: SubmissionRules | None) -> list[Route]:
    """Return the routes of the page and of its form; `rules` are those of submitted studies, None: none can be submitted."""

    def show(request: Request) -> Response:
        if rules is None:
            raise NotFound("This dashboard takes no studies. Start it with: tuner dashboard --submit --data-roots FOLDER")
        return _page(request, rules, text=_beginning(site, request), given={}, checked=None)

    def act(form: FormData, request: Request) -> Response:
        if rules is None or not request.state.identity.role.allows(Role.EDITOR):
            return error_page(
                request, HTTPStatus.FORBIDDEN, "Permission denied", f"This needs the role {Role.EDITOR} and a server with --submit."
            )
        return _submit(site, request, rules, {name: value for name, value in form.items() if isinstance(value, str)})

    async def respond(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=20, max_part_size=4 * submission.MAX_BYTES)
        return await run_in_threadpool(with_error_pages(functools.partial(act, form)), request)

    return [Route(NEW, with_error_pages(show), methods=["GET"]), Route(_SUBMIT, respond, methods=["POST"])]


def _submit(site: Site, request: Request, rules: SubmissionRules, form: Mapping[str, str]) -> Response:
    text = form.get("file", "")
    try:
        service.submit(site.reader.storage, rules, request.state.identity.name, _asked(form, text), key=form.get("key") or None)
    except errors.StorageError:
        raise
    except errors.SpecError as error:
        return _page(request, rules, text=text, given=form, checked=CheckedStudy(spec=None, problems=error.problems))
    except errors.RequestError as error:
        refused = CheckedStudy(spec=None, problems=(Problem(field="", message=str(error)),))
        return _page(request, rules, text=text, given=form, checked=refused)
    return RedirectResponse(f"{QUEUE}?{urlencode({'done': 'submitted'})}", HTTPStatus.SEE_OTHER)


def _asked(form: Mapping[str, str], text: str) -> SimpleNamespace:
    """Return what a form asks for, as the API does.

    Raises:
        RequestError: a field is not a whole number.
    """
    numbers = {}
    for field, default in _NUMBERS.items():
        given = form.get(field, "").strip() or str(default)
        if not given.removeprefix("-").isdecimal() or len(given) > 6:
            raise errors.RequestError(f"{field} is {given[:20]!r}; expected a whole number such as {default + 4}")
        numbers[field] = int(given)
    lists = {field: [name.strip() for name in form.get(field, "").split(",") if name.strip()] for field in ("needs", "after")}
    return SimpleNamespace(file=text.replace("\r\n", "\n"), takes_winner=False, preempt="preempt" in form, **numbers, **lists)


def _beginning(site: Site, request: Request) -> str:
    """Return the file that the page begins with: that of another study, or an example."""
    number = parse_whole(request.query_params.get("clone"), otherwise=-1)
    if number < 0:
        return _EXAMPLE
    found = site.reader.storage.read(lambda connection: views_studies.one(connection, number))
    if found is None or found.spec is None:
        raise NotFound("The study to clone does not exist, or tuner did not create it.")
    return study_file.dump(_copy(found.spec))


def _copy(spec: AnyStudySpec) -> AnyStudySpec:
    changed = {"name": f"{spec.name[:90]}-2", "result": None, "retraining": None}
    return spec.model_copy(update=changed)


def _page(request: Request, rules: SubmissionRules, *, text: str, given: Mapping[str, str], checked: CheckedStudy | None) -> Response:
    status = HTTPStatus.OK if checked is None else HTTPStatus.UNPROCESSABLE_ENTITY
    variables: dict[str, Any] = {"text": text, "given": {**_EMPTY, **given}, "checked": checked, "takes_uploads": rules.uploads is not None}
    return page(request, "new.html", status, **variables)
