"""`tuner init`: a folder of images into a study file to start from."""

from pathlib import Path

from pydantic import ValidationError

from tuner.data import survey, template
from tuner.errors import RequestError
from tuner.spec import StudySpec
from tuner.terminal import plain


def init(name: str, images: Path, to: Path, cache: Path) -> int:
    """Write the study file and print what was seen; a file that is there is left alone."""
    _check_name(name)
    if to.exists():
        raise RequestError(f"{to} is there already and is not overwritten; choose another name, or remove it")
    seen = survey.survey(images, cache=cache)
    template.write(template.study_file(name, seen, images.expanduser()), to)
    plain.result("\n".join(survey.lines(seen)))
    if not seen.is_usable:
        plain.line("warning: the study cannot run on this folder as it is")
    plain.result(f"\nWrote {to}. What it will do: tuner check {to}")
    return 0


def _check_name(name: str) -> None:
    try:
        StudySpec.model_validate({"name": name, "data": {"source": "digits"}})
    except ValidationError as error:
        raise RequestError(
            f"NAME is {name!r}; expected letters, digits, dots, underscores and hyphens, at most 100 of them, a letter or digit first"
        ) from error
