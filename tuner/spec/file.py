"""Study files: read one into a `StudySpec`, write a `StudySpec` as one, and compare two."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tuner import wording
from tuner.errors import Problem, RequestError, SpecError
from tuner.spec import domains, mistakes, schema, tasks, yaml_lines
from tuner.spec.model import PACKAGED_MOBILENET
from tuner.spec.study import IMAGE_CLASSIFICATION, AnyStudySpec, StudySpec

#: fields that may differ between two runs of a study, because they do not change what it searches
_FREE = ("budget", "result", "results", "data.path", "data.root", "folder", "training.stall_timeout")
#: a file without one of them does not change a study that has it
_ADAM, _ORDER = "search.adam_weight_decay", "data.class_order"
_PROMOTE, _SAMPLER = "training.promote", "sampler"
#: hyperparameters that are new; a study that exists keeps their values of an earlier version, unless its file gives others
_LATER = ("probe_solver", "feature_floor")
#: value of `training.promote` in the studies of earlier versions whose file does not name it
_EARLIER_PROMOTE = 0.25
#: sections that may change while the trials stay comparable
SEARCHED = ("search.", "sampler.", "pruner.")


def read(path: Path) -> AnyStudySpec:
    """Read a study from a YAML or JSON file.

    Raises:
        SpecError: the file cannot be read or has mistakes; the error lists all of them.
    """
    document = yaml_lines.read(Path(path))
    return build(document, origin=str(path), folder=Path(path).parent.resolve())


def read_images(path: Path) -> StudySpec:
    """Read a study of images from a YAML or JSON file.

    Raises:
        SpecError: the file cannot be read, has mistakes, or is a study of another task.
    """
    spec = read(path)
    if not isinstance(spec, StudySpec):
        message = f"is {spec.task}; this works only for studies of images ({IMAGE_CLASSIFICATION})"
        raise SpecError(str(path), [Problem(field="task", message=message)])
    return spec


def parse(mapping: Any, origin: str, folder: Path | None = None) -> AnyStudySpec:
    """Build a study from plain values; relative paths start at `folder`, and messages name `origin`.

    Raises:
        SpecError: the values have mistakes; the error lists all of them.
    """
    return build(yaml_lines.Document(value=mapping), origin=origin, folder=folder)


def dump(spec: AnyStudySpec) -> str:
    """Return a complete study file, which reads back as an equal study."""
    plain = _as_written(schema.in_order(spec.model_dump(mode="json")))
    for section, name in ((plain, "result"), (plain, "retraining"), (plain.get("search", {}), "adam_weight_decay")):
        if name in section and section[name] is None:
            del section[name]
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # lists and mappings without inner ones are written on one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 140
    yaml.representer.add_representer(type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"))
    text = io.StringIO()
    yaml.dump(plain, text)
    return text.getvalue()


def differences(old: AnyStudySpec, new: AnyStudySpec) -> list[str]:
    """Return one line for each field that differs between two studies: `search.dropout: [0, 0.5] -> 0.3`.

    Differences in the budget, the result and the folder of the images do not count.
    """
    before, after = dict(_fields(old, "")), dict(_fields(new, ""))
    free = _free(old, new) if isinstance(old, StudySpec) and isinstance(new, StudySpec) else _FREE
    fields = [field for field in {**before, **after} if not f"{field}.".startswith(tuple(f"{name}." for name in free))]
    missing = "not given"
    return [
        f"{field}: {before.get(field, missing)} -> {after.get(field, missing)}" for field in fields if before.get(field) != after.get(field)
    ]


def _free(old: StudySpec, new: StudySpec) -> tuple[str, ...]:
    """Return the fields of an image study that may differ: also those that the file does not give and an earlier version had otherwise."""
    free = (*_FREE, _ADAM) if new.search.adam_weight_decay is None else _FREE
    free = (*free, _PROMOTE) if (old.training.promote, new.training.promote) == (_EARLIER_PROMOTE, "auto") else free
    free = free if "class_order" in new.data.model_fields_set else (*free, _ORDER)
    free = free if _SAMPLER in new.model_fields_set else (*free, _SAMPLER)
    return (*free, *(f"search.{name}" for name in _LATER if name not in new.search.model_fields_set))


def with_class_order_of(old: StudySpec, new: StudySpec) -> StudySpec:
    """Return a study with the order of classes that another one has, unless its file gives an order."""
    order = getattr(old.data, "class_order", None)
    if order is None or old.data.source != new.data.source or "class_order" in new.data.model_fields_set:
        return new
    return new.model_copy(update={"data": new.data.model_copy(update={"class_order": order})})


def with_backbone_of(old: StudySpec, new: StudySpec) -> StudySpec:
    """Return a study with the backbone MobileNetV2 if an existing one has it: before there was a mobilenet_v2, that name meant it too."""
    if (old.model.backbone, new.model.backbone) != ("MobileNetV2", PACKAGED_MOBILENET):
        return new
    return new.model_copy(update={"model": new.model.model_copy(update={"backbone": old.model.backbone})})


def with_defaults_of(old: StudySpec, new: StudySpec) -> StudySpec:
    """Return a study with the sampler, `probe_solver` and `feature_floor` that another one has, unless its file gives them."""
    if _SAMPLER not in new.model_fields_set:
        new = new.model_copy(update={_SAMPLER: old.sampler})
    kept = {name: getattr(old.search, name) for name in _LATER if name not in new.search.model_fields_set}
    return new.model_copy(update={"search": new.search.model_copy(update=kept)})


def json_schema(task: str = IMAGE_CLASSIFICATION) -> dict[str, Any]:
    """Return the JSON Schema of the study files of a task, for editors.

    Raises:
        RequestError: there is no such task.
    """
    if task not in tasks.TASKS:
        raise RequestError(f"the task is {wording.show(task)}; expected {wording.one_of(list(tasks.TASKS), task)}")
    return schema.json_schema(tasks.study_class(task))


def build(document: yaml_lines.Document, *, origin: str, folder: Path | None) -> AnyStudySpec:
    """Build a study from a document; relative paths start at `folder`, and messages name `origin`.

    Raises:
        SpecError: the document has mistakes; the error lists all of them, with those that are already known.
    """
    if not isinstance(document.value, Mapping):
        message = f"is {wording.show(document.value)}; expected keys and values, at least `name: my_study` and `data: …`"
        raise SpecError(origin, [*document.problems, Problem(field="", message=message)])
    task = document.value.get("task", IMAGE_CLASSIFICATION)
    if not isinstance(task, str) or task not in tasks.TASKS:
        message = f"is {wording.show(task)}; expected {wording.one_of(list(tasks.TASKS), task)}"
        raise SpecError(origin, [*document.problems, document.problem(("task",), message)])
    found = mistakes.read(document.value, folder, tasks.study_class(task))
    problems = list(document.problems)
    if isinstance(found, list):
        named = {problem.field for problem in problems}
        problems += [
            document.problem(mistake.path, mistake.message) for mistake in found if not mistake.field or mistake.field not in named
        ]
    if problems:
        raise SpecError(origin, sorted(problems, key=lambda problem: problem.line or 0))
    assert isinstance(found, AnyStudySpec)
    return found


def _as_written(plain: Any) -> Any:
    """Return plain values as a person writes them: `source` or `name` first in its section, and 1000 instead of 1000.0."""
    if isinstance(plain, dict):
        return {key: _as_written(plain[key]) for key in sorted(plain, key=lambda key: key not in ("source", "name"))}
    if isinstance(plain, list):
        return [_as_written(item) for item in plain]
    return int(plain) if isinstance(plain, float) and plain.is_integer() and plain < 1e15 else plain


def _fields(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield every field of a study: its dotted name, and its value as text for a message."""
    if hasattr(type(value), "model_fields"):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _fields(inner, f"{field}.{name}" if field else str(name))
    elif isinstance(value, domains.Fixed | domains.Choice | domains.Range):
        yield field, domains.text(value)
    else:
        yield field, wording.show(value if not isinstance(value, Path) else str(value))
