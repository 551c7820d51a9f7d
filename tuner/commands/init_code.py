"""`tuner init --from`: a study file for user code, with the space and the metrics that a trainer sees when it runs the code."""

import ast
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner import wording
from tuner.errors import RequestError, TrainingError
from tuner.protocol import messages
from tuner.queue import admission
from tuner.spec import file as study_file
from tuner.spec import objective as objectives
from tuner.spec.study import AnyStudySpec
from tuner.spec.tasks import CUSTOM, OBJECTIVE
from tuner.tasks.images.data import survey
from tuner.terminal import plain, plan, printing

#: last words of the names of metrics, the first is proposed first: Keras gives them in the order of the alphabet
_USUAL = ("auc", "f1", "accuracy", "acc", "mae", "error")
#: what a name of a study cannot have
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class NamedCode:
    """Code as the command line names it."""

    #: `my_code.py:build` or `my_package.module:objective`
    code: str
    #: the function that loads the data; None: the code is an objective, which loads its own
    data: str | None
    #: maximize or minimize, of an objective; None: not given
    direction: str | None

    @property
    def folder(self) -> Path:
        """The folder of the file, or the current folder for a module."""
        return _file(self.code).parent if _is_file(self.code) else Path()

    @property
    def stem(self) -> str:
        """The name of the file or the module."""
        place = self.code.rpartition(":")[0]
        return Path(place).stem if _is_file(self.code) else place.rpartition(".")[2]

    @property
    def command(self) -> str:
        """The options that name the code."""
        given = [f"--from {self.code}", *([f"--data {self.data}"] if self.data else [])]
        return " ".join([*given, *([f"--direction {self.direction}"] if self.direction else [])])

    def require_kind(self) -> str:
        """Return the task of the code.

        Raises:
            RequestError: the file does not exist, has no such function, or the options do not fit it.
        """
        example = "write for example: tuner init --from my.py:build --data my.py:load"
        for option, given in (("--from", self.code), ("--data", self.data)):
            if given is not None and not all(given.rpartition(":")[::2]):
                raise RequestError(f"{option} is {given}; expected a file and a function; {example}")
        is_objective = self.data is None if (parameters := _parameters(self.code)) is None else parameters == ("trial",)
        if not is_objective and self.data is None:
            raise RequestError(f"--from names {self.code}, which builds a model, and --data is missing; {example}")
        if not is_objective:
            if self.direction is not None:
                raise RequestError("--direction belongs to an objective; write the direction of a metric into the study file")
            return CUSTOM
        if self.data is not None:
            raise RequestError(f"--from names {self.code}, an objective, which loads its own data; drop --data")
        if self.direction not in ("maximize", "minimize"):
            given = "missing" if self.direction is None else self.direction
            raise RequestError(f"--direction is {given}; expected maximize or minimize, for the value that {self.code} returns")
        return OBJECTIVE


def init(name: str | None, code: NamedCode, to: Path | None, cache: Path) -> int:
    """Write a study file for user code, after a trainer has run it once. An existing file is never overwritten."""
    from tuner.workers.worker import evaluation  # it imports Optuna, which takes as long as the rest of the command

    task = code.require_kind()
    name = name or _ODD.sub("_", code.stem).lstrip("._-") or "study"
    target = to or code.folder / f"{name}.yaml"
    if target.exists():
        raise RequestError(f"{target} already exists; choose another file with --to, or remove it")
    spec = study_file.parse(_plain(name, task, code), "tuner init", Path.cwd())
    admission.require_code(spec)
    with printing.busy(f"{name}: a trainer tries the code …"):
        try:
            tried = evaluation.try_code(spec, cache)
        except TrainingError as error:
            raise RequestError(f"the code cannot be run once: {error}") from error
    survey.write_new(_text(spec, tried, code, target), target)
    printing.result(printing.section("Tried", plan.tried(tried.facts)))
    plain.result(f"\nWrote {target}. See what it will do with: tuner check {target}")
    return 0


def _is_file(code: str) -> bool:
    return code.rpartition(":")[0].endswith(".py")


def _file(code: str) -> Path:
    return Path(code.rpartition(":")[0]).expanduser()


def _parameters(code: str) -> tuple[str, ...] | None:
    """Return the parameters of a function of a file, which is read and not run; None if it is a class, or the file does not define it.

    Raises:
        RequestError: the file cannot be read, or is no Python.
    """
    if not _is_file(code):
        return None
    path, name = _file(code), code.rpartition(":")[2]
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise RequestError(f"--from names the file {path}, which cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise RequestError(f"--from names the file {path}, which is no Python: {getattr(error, 'msg', error)}{line}") from error
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = defined.get(name)
    if found is None and not any(isinstance(node, ast.Assign | ast.Import | ast.ImportFrom) for node in tree.body):
        known = f" {wording.known(list(defined), name)}" if defined else ""
        raise RequestError(f"--from is {code}, but {path.name} has no {name}.{known}")
    return tuple(argument.arg for argument in found.args.args) if isinstance(found, ast.FunctionDef) else None


def _plain(name: str, task: str, code: NamedCode) -> dict[str, object]:
    """Return a study with the names of the code as from its own folder, and an objective that every model has."""
    folder = {"folder": str(code.folder.absolute())}
    if task == OBJECTIVE:
        return {"name": name, "task": task, "function": _within(code.code, code.folder), "objective": code.direction, **folder}
    assert code.data is not None, "a model has data"
    sections = {"model": {"build": _within(code.code, code.folder)}, "data": {"load": _within(code.data, code.folder)}}
    return {"name": name, "task": task, "objective": "val_loss", **sections, **folder}


def _within(code: str, folder: Path) -> str:
    """Return the name of a function with its file as seen from a folder."""
    if not _is_file(code):
        return code
    return f"{os.path.relpath(_file(code), folder)}:{code.rpartition(':')[2]}"


def _text(spec: AnyStudySpec, tried: messages.Prepared, code: NamedCode, target: Path) -> str:
    """Return the study file."""
    given = dict(spec.named_code())
    lines = [
        f"# Written by: tuner init {spec.name} {code.command}",
        f"# What it will do: tuner check {target}",
        f"# The search:      tuner run {target} --workers 2",
        f"name: {spec.name}",
        f"task: {spec.task}",
    ]
    if spec.task == OBJECTIVE:
        lines += [f"function: {given['function']}", f"objective: {spec.objective.direction}"]
    else:
        lines += [f"model: {{build: {given['model.build']}}}", f"data: {{load: {given['data.load']}}}"]
    if code.folder.absolute() != target.parent.absolute():
        lines.append(f"folder: {os.path.relpath(code.folder, target.parent)}    # of the files of the code")
    if spec.task == CUSTOM:
        metrics = list(dict.fromkeys(map(objectives.plain_name, tried.metrics)))
        lines += ["", f"# the metric that chooses the best epoch and the best trial; fit reports {wording.listed(metrics)}"]
        lines += [f"objective: {_objective(metrics)}", "training: {epochs: 10, batch_size: 32}"]
    return "\n".join([*lines, "budget: {trials: 40}", "", *_space(spec, tried)]) + "\n"


def _objective(metrics: Sequence[str]) -> str:
    """Return the most usual metric of the model whose direction is known, on the validation data; else its loss."""
    own = [name for name in metrics if name.startswith("val_") and not name.endswith("_loss")]
    known = [name for name in own if objectives.known_direction(name) is not None]
    usual = [name for word in _USUAL for name in known if name.rpartition("_")[2] == word]
    return next(iter([*usual, *known]), "val_loss")


def _space(spec: AnyStudySpec, tried: messages.Prepared) -> list[str]:
    if spec.task == OBJECTIVE:
        about = "The objective asks for its values while it runs. A name in the section search takes precedence:"
        return [f"# {about}", "# search:", "#   x: [0, 1]"]
    if not tried.asked:
        about = 'The code asks for no values. Declare them here, and read them as hp["units"]:'
        return [f"# {about}", "# search:", "#   units: [16, 512]"]
    about = "The code defines these values, and needs no section search. A line of it takes precedence over the code."
    return [f"# {about}", "# Seen with the first values; with others, the code may ask for more.", "# search:", *map(_line, tried.asked)]


def _line(question: messages.Ask) -> str:
    name = question.name if re.fullmatch(r"[A-Za-z_][\w.\-/]*", question.name) else f'"{question.name}"'
    if question.low is None or question.high is None:
        return f"#   {name}: {{choices: [{', '.join(map(wording.show, question.choices))}]}}"
    kind = int if question.integer else float
    ends = f"[{', '.join(_number(kind(end)) for end in (question.low, question.high))}]"
    options = [*(["log: true"] if question.log else []), *([f"step: {_number(kind(question.step))}"] if question.step is not None else [])]
    return f"#   {name}: {ends}" if not options else f"#   {name}: {{range: {ends}, {', '.join(options)}}}"


def _number(value: float) -> str:
    """Return a number as YAML reads it back, also as a number with a point."""
    return repr(value)
