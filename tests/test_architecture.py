"""The imports of the package, read without running it, against the order and the walls of docs/architecture.md."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "tuner").rglob("*.py"))

#: a module imports only from rooms before its own, or from its own
ROOMS = [
    *(
        "errors",
        "wording",
        "machine",
        "hyperparameters",
        "domains",
        "search_space",
        "strategies",
        "clashes",
        "data_spec",
        "model_spec",
        "spec",
    ),
    *("schema", "yaml_lines", "mistakes", "study_file", "messages", "errands", "failures"),
    *(
        "trust",
        "data",
        "training",
        "search",
        "workers",
        "doctor",
        "results",
        "drawing",
        "dashboard",
        "report",
        "terminal",
        "commands",
        "taking_home",
        "api",
        "cli",
    ),
]
SQL = {"optuna", "optuna_dashboard", "sqlalchemy"}
KERAS = {"keras", "keras_hub", "tensorflow", "tensorflow_datasets"}
#: the doors of the package: they may open any room, and nothing imports them but for the version
DOORS = {"tuner", "tuner.__main__"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.split(".")[1]


def is_module(name: str) -> bool:
    return ROOT.joinpath(*name.split(".")).with_suffix(".py").exists()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Every name that is imported, at any depth of the file; of `from tuner.search import space` also `tuner.search.space`."""
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


ROOMS_MODULES = [path for path in MODULES if module_name(path) not in DOORS]
each_module = pytest.mark.parametrize("path", ROOMS_MODULES, ids=module_name)


@each_module
def test_a_module_stands_in_a_room_that_the_order_names(path: Path) -> None:
    assert room_of(module_name(path)) in ROOMS


@each_module
def test_a_module_imports_only_from_its_own_room_and_those_above(path: Path) -> None:
    own_place = ROOMS.index(room_of(module_name(path)))
    assert not {name for name in own_modules(path) if ROOMS.index(room_of(name)) > own_place}


def test_no_module_is_part_of_a_ring_of_imports() -> None:
    needs = {module_name(path): own_modules(path) for path in ROOMS_MODULES}
    while free := {name for name, needed in needs.items() if not needed & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert not needs


@each_module
def test_imports_are_absolute_and_never_of_a_whole_room(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith(".")}
    rooms = {name for name in imported(path) if name.startswith("tuner.") and ROOT.joinpath(*name.split(".")).is_dir()}
    assert all(any(name.startswith(f"{room}.") for name in imported(path)) for room in rooms)


@each_module
def test_optuna_and_sql_stay_out_of_training_and_data(path: Path) -> None:
    assert room_of(module_name(path)) not in ("training", "data") or not packages(path) & SQL


@each_module
def test_keras_stays_inside_training(path: Path) -> None:
    assert room_of(module_name(path)) == "training" or not packages(path) & KERAS


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py" and path.parent.name != "tuner"], ids=module_name)
def test_the_file_that_makes_a_folder_a_package_is_empty(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("path", [path for path in MODULES if path.stat().st_size], ids=module_name)
def test_the_first_line_of_a_module_is_a_sentence(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith('"""')
    assert first.removesuffix('"""').endswith((".", ","))
    assert len(first.split()) > 3


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not {function.name for function in functions if (function.end_lineno or 0) - function.lineno >= 60}


def test_only_the_command_line_a_failed_attempt_a_failed_download_and_a_heartbeat_catch_every_exception() -> None:
    downloads = {"tuner.training.downloads"}  # keras.utils.get_file raises a bare Exception
    catching = {module_name(path) for path in MODULES for node in ast.walk(tree(path)) if catches_all(node)}
    hearts = {"tuner.workers.heartbeat"}  # it has its own thread, which would end in silence
    assert catching <= {"tuner.cli", "tuner.training.serving", "tuner.training.errand"} | downloads | hearts


def catches_all(node: ast.AST) -> bool:
    return isinstance(node, ast.ExceptHandler) and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
