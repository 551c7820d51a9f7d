"""The imports of the package, read without running it, against the layout of docs/architecture.md."""

import ast
import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "tuner").rglob("*.py"))

#: a module imports only from its own package and from packages before it
PACKAGES = [
    *("errors", "wording", "machine", "trust", "spec", "protocol", "cache", "kernels", "tasks", "trainer"),
    *("storage", "sampling", "studies", "queue", "views", "workers", "results", "doctor", "drawing"),
    *("dashboard", "report", "terminal", "commands", "api", "cli"),
]
MAX_MODULES = 285
MAX_LINES_OF_A_FUNCTION = 60
SQL = {"optuna", "optuna_dashboard", "sqlalchemy"}
KERAS = {"keras", "keras_hub", "tensorflow", "tensorflow_datasets"}
#: packages that a trainer runs: they never import Optuna or SQLAlchemy
WITHOUT_SQL = {"kernels", "trainer", "tasks", "cache", "protocol", "spec", "trust"}
#: the entry points of the package: they may import any package, and nothing imports them but for the version
ENTRY_POINTS = {"tuner", "tuner.__main__"}
#: the one module that uses private names of Optuna and optuna-dashboard
OPTUNA_ADAPTER = "tuner.storage.optuna_private"
#: private attributes, methods and attribute keys of theirs
OPTUNA_PRIVATE = {
    *("_trial_id", "_study_id", "_contains", "_find_sample_id"),
    *("fixed_params", "study:metric_names", "tpe:relative_params", "constraints:", "artifacts:", ":note_ver", ":note_str:"),
}
SMALL = 60
#: modules under 60 lines with at most one importer, and why each is a module
SMALL_BUT_SEPARATE = {
    "tuner.cli.results": "a module for each group of commands",
    "tuner.__main__": "`python -m tuner`",
    "tuner.tasks.images.spec.image_task": "the names that every task has, over modules that benchmarks use alone",
    "tuner.trainer.process": "`python -m tuner.trainer.process`, which sets TensorFlow up before anything imports it",
    "tuner.storage.migrations.env": "Alembic asks for a file of this name",
    "tuner.storage.migrations.steps.step_2": "Alembic asks for a file a step",
    "tuner.storage.migrations.steps.step_3": "Alembic asks for a file a step",
    "tuner.storage.migrations.steps.step_4": "Alembic asks for a file a step",
}
#: module names that stand in several packages, and the role that they play in each
ROLES = {
    "api": "the interface for programs: of the package in Python, of the dashboard over HTTP",
    "artifacts": "artifacts: located for commands, checked by the doctor",
    "run": "`tuner run`: its options, its work",
    "versions": "versions of a model: stored, listed by a command, shown",
    "control": "stop, resume and enqueue: in the storage, as commands",
    "export": "export: of a study file, of a model, as a command",
    "maintenance": "`tuner cache` and `tuner doctor`: their work, their output",
    "migrate": "`tuner migrate`: the trials, the command",
    "worker": "a worker: the loop, the command that starts one",
    "study": "a study: its file, its place in the storage, its page",
    "trial": "a trial: trained, read whole, its page",
    "trials": "the trials of a study: what a worker does with them, how they are listed",
    "plan": "the plan of a study: its words, its output",
    "evaluation": "the evaluation of a trained trial: in the trainer, asked for by a worker",
    "status": "the state of a study: read, shown",
    "pictures": "pictures of a trial: drawn by the trainer, kept in the artifact store",
    "process": "the entry point of a child process: of a trainer, of a worker",
    "ensemble": "the ensemble of a study: chosen and stored, formed at the end of a run",
    "service": "the commands of the service: their options, their work",
    "entries": "entries: of the cache, of the queue",
    "objective": "the objective of a study: its metric in a study file, a user function that is called",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(name: str) -> str:
    return name.split(".")[1]


def is_module(name: str) -> bool:
    return ROOT.joinpath(*name.split(".")).with_suffix(".py").exists()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Return every imported name, at any depth of the file; `from tuner.spec import study` also gives `tuner.spec.study`."""
    return frozenset(names(tree(path)))


def names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(path: Path) -> set[str]:
    return {name for name in imported(path) if name.startswith("tuner.") and is_module(name)}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


INNER_MODULES = [path for path in MODULES if module_name(path) not in ENTRY_POINTS]


def each(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Turn a check of one module into a test of many, which names each module that fails."""

    def test_of(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            failed: dict[str, str] = {}
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    failed[module_name(path)] = str(error)
            assert not failed

        assert paths
        test.__name__ = check.__name__
        return test

    return test_of


each_module = each(INNER_MODULES)


def test_the_package_has_few_modules() -> None:
    assert len([path for path in MODULES if path.name != "__init__.py"]) <= MAX_MODULES


@each_module
def test_a_module_belongs_to_a_package_that_the_order_names(path: Path) -> None:
    assert package_of(module_name(path)) in PACKAGES


@each_module
def test_a_module_imports_only_from_its_own_package_and_those_before(path: Path) -> None:
    own_place = PACKAGES.index(package_of(module_name(path)))
    assert not {name for name in own_modules(path) if PACKAGES.index(package_of(name)) > own_place}


def test_imports_form_no_cycle() -> None:
    needs = {module_name(path): own_modules(path) for path in INNER_MODULES}
    while free := {name for name, needed in needs.items() if not needed & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert not needs


@each_module
def test_imports_are_absolute_and_never_of_a_whole_package(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith(".")}
    folders = {name for name in imported(path) if name.startswith("tuner.") and ROOT.joinpath(*name.split(".")).is_dir()}
    assert all(any(name.startswith(f"{folder}.") for name in imported(path)) for folder in folders)


@each_module
def test_optuna_and_sql_stay_out_of_what_a_trainer_runs(path: Path) -> None:
    assert package_of(module_name(path)) not in WITHOUT_SQL or not packages(path) & SQL


@each([path for path in MODULES if module_name(path) != OPTUNA_ADAPTER])
def test_private_names_of_optuna_stand_only_in_their_adapter(path: Path) -> None:
    private = [name for name in imported(path) if name.split(".")[0] in ("optuna", "optuna_dashboard") and "._" in name]
    assert not private
    used = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)}
    used |= {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not used & OPTUNA_PRIVATE


@each_module
def test_keras_stays_in_the_kernels_the_trainer_and_the_training_of_tasks(path: Path) -> None:
    match module_name(path).split("."):
        case ["tuner", "kernels" | "trainer", *_] | ["tuner", "tasks", _, "training", *_]:
            return
    assert not packages(path) & KERAS


@each_module
def test_private_names_of_keras_and_tensorflow_stay_in_their_adapter(path: Path) -> None:
    if packages(path) & KERAS and module_name(path) != "tuner.kernels.keras_private":
        assert not list(private_names(tree(path)))


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yield the private modules that are imported, and the private names that are read from anything but `self` and `cls`."""
    yield from (name for name in names(tree) if name.startswith(("keras.src", "tensorflow.python", "keras_hub.src")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and getattr(node.value, "id", "") not in ("self", "cls", "os"):
            yield node.attr
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            yield from (str(each.value) for each in node.args if isinstance(each, ast.Constant) and is_private(str(each.value)))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize(
    "line", ["import keras.src.layers", "from tensorflow.python import x", "layer._flatten_layers()", "getattr(layer, '_functional')"]
)
def test_a_private_name_is_noticed(line: str) -> None:
    assert list(private_names(ast.parse(line)))


@each_module
def test_only_the_command_line_declares_commands(path: Path) -> None:
    assert package_of(module_name(path)) == "cli" or not packages(path) & {"typer", "click"}


@each([path for path in MODULES if path.name == "__init__.py" and path.parent.name != "tuner"])
def test_the_file_that_makes_a_folder_a_package_is_empty(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == ""


@each([path for path in MODULES if path.stat().st_size])
def test_the_first_line_of_a_module_is_a_sentence(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith('"""')
    assert first.removesuffix('"""').endswith(".")
    assert len(first.split()) > 3


def test_a_small_module_has_several_importers() -> None:
    importers = collections.Counter(name for path in MODULES for name in own_modules(path))
    small = {module_name(path) for path in INNER_MODULES if path.stat().st_size and is_small(path)} | {"tuner.__main__"}
    assert {name for name in small if importers[name] < 2} == SMALL_BUT_SEPARATE.keys()


def is_small(path: Path) -> bool:
    return len(path.read_text(encoding="utf-8").splitlines()) < SMALL


def test_two_modules_share_a_name_only_where_they_play_one_role() -> None:
    leaves = collections.Counter(module_name(path).rsplit(".", 1)[1] for path in INNER_MODULES if path.name != "__init__.py")
    assert {leaf for leaf, count in leaves.items() if count > 1} == ROLES.keys()


def test_no_two_classes_share_a_name() -> None:
    classes = collections.Counter(node.name for path in MODULES for node in classes_of(tree(path).body))
    assert not [name for name, count in classes.items() if count > 1]


def classes_of(body: Sequence[ast.stmt]) -> list[ast.ClassDef]:
    return [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


@each(MODULES)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {function.name for function in functions if (function.end_lineno or 0) - function.lineno >= MAX_LINES_OF_A_FUNCTION}


def test_only_the_command_line_a_failed_attempt_a_failed_download_and_a_heartbeat_catch_every_exception() -> None:
    downloads = {"tuner.kernels.downloads"}  # keras.utils.get_file raises a bare Exception
    catching = {module_name(path) for path in MODULES for node in ast.walk(tree(path)) if catches_all(node)}
    heartbeats = {"tuner.workers.worker.heartbeat"}  # it has its own thread, which would end without a word
    assert catching <= {"tuner.cli.main", "tuner.trainer.loop", "tuner.trainer.errand"} | downloads | heartbeats


def catches_all(node: ast.AST) -> bool:
    return isinstance(node, ast.ExceptHandler) and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
