"""The study files in studies/, and the pages that document every key."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner import wording
from tuner.spec import file as study_file
from tuner.spec import schema, yaml_lines
from tuner.spec import search as search_section
from tuner.spec.hyperparameters import Optimizer
from tuner.spec.model import BACKBONES
from tuner.spec.schema import SchemaKey
from tuner.spec.study import AnyStudySpec, StudySpec, images_of
from tuner.tasks.custom.spec.custom_study import CustomStudySpec, ObjectiveStudySpec

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
PAGES = ("study-file.md", "your-own-data.md", "targets.md", "search-space.md")
#: the pages that document every key, one after another
PAGE = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
TEMPLATE = (ROOT / "studies" / "template.yaml").read_text(encoding="utf-8")
SECTIONS = {key.section for key in schema.all_keys()}
#: keys in the tables: all except sections, which are headings, and keys that give the kind of a section
DOCUMENTED = [
    key
    for key in schema.all_keys()
    if key.section and (key.field not in SECTIONS or key.field == "search.head_units") and "const" not in key.node
]

each_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


def row(key: SchemaKey) -> str:
    """Return the table row that documents a key."""
    default = "required" if key.required else f"`{shown(key.default)}`"
    value = schema.expectation(key.node).removeprefix("one of ").replace("a section (`key: value`)", "by optimizer")
    if key.section.startswith("search"):
        value = value.removesuffix(" or a list").replace(" or a list or", " or")
    if key.field == "search.head_units":
        value = "a list of widths, or `layers` and `units`"
    return f"| `{key.name}` | {value} | {default} | {key.meaning} |"


def shown(value: object) -> str:
    return wording.show(value, longest=200).replace("'", "")


def rows(page: str) -> Iterator[tuple[str, str]]:
    """Yield each row of a table of keys, with the code in the heading above it: `sampler`, `sampler: tpe`."""
    heading = ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = "".join(re.findall(r"`([^`]+)`", line))
        elif match := re.match(r"\| `([^`]+)` (?=\| `[^`]+` \|.* \| .* \| )", line):
            yield f"{heading}: {{name: {match[1]}}}", line[match.end() :]
        elif re.match(r"\| `[^`]+` \|.* \| .* \| ", line):
            yield heading, line


def heading_of(key: SchemaKey) -> str:
    tag = "source" if key.section == "data" else "name"
    is_shared = key.section == "data" and key.name in ("train", "validation", "test", "validation_from")
    return f"{key.section}: {{{tag}: {key.kind}}}" if key.kind and not is_shared else key.section


@each_study
def test_a_bundled_study_file_has_no_mistake(path: Path) -> None:
    assert study_file.read_images(path).name == path.stem


@each_study
def test_a_bundled_study_file_starts_with_a_comment_that_shows_how_to_run_it(path: Path) -> None:
    comment = "".join(line for line in path.read_text(encoding="utf-8").splitlines()[:4] if line.startswith("# "))
    assert f"studies/{path.name}" in comment


def test_the_template_contains_only_defaults() -> None:
    spec = study_file.read_images(ROOT / "studies" / "template.yaml")
    assert spec == images_of(study_file.parse({"name": spec.name, "data": {"source": "folder", "path": "~/photos"}}, "defaults"))


@pytest.mark.parametrize("key", schema.all_keys(), ids=lambda key: f"{key.field} {key.kind}")
def test_the_template_contains_every_key(key: SchemaKey) -> None:
    assert re.search(rf"\b{key.name}:", TEMPLATE)
    assert not key.kind or re.search(rf"\b{key.kind}\b", TEMPLATE)


ALTERNATIVES = re.findall(r"^# ((?:data|sampler|pruner): .*)$", TEMPLATE, flags=re.MULTILINE)


@pytest.mark.parametrize("line", ALTERNATIVES)
def test_the_alternatives_in_the_template_are_valid_and_show_defaults(line: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(line, encoding="utf-8")
    given = yaml_lines.read(path).value
    minimal = {"name": "x", "data": {"source": "digits"}, "search": {"optimizer": "sgd"}}
    if line.startswith(("sampler: grid", "sampler: brute-force")):
        minimal["search"] = spec_of_values()
    spec = images_of(study_file.parse(minimal | given, line))
    section, kind = next(iter(given.items()))
    if section != "data" and isinstance(kind, dict) and kind["name"] != "threshold":
        assert spec == images_of(study_file.parse(minimal | {section: kind["name"]}, line))


def spec_of_values() -> dict[str, object]:
    """Return a search space that the exhaustive samplers accept."""
    ranged = ("learning_rate", "probe_learning_rate", "weight_decay", "dropout", "label_smoothing", "unfreeze", "layer_decay")
    augmented = ("rotation", "zoom", "translation", "brightness", "contrast", "erasing", "mixup")
    return {name: {"choices": [0.1, 0.2]} for name in ranged} | {"head_units": [], "augmentation": dict.fromkeys(augmented, 0.1)}


def test_six_lines_are_a_complete_study() -> None:
    given = {
        "name": "flowers",
        "data": {"source": "folder", "path": "~/photos/flowers", "validation": 0.15, "test": 0.15},
        "model": {"backbone": "efficientnet_lite0", "image_size": 160},
        "budget": {"trials": 60, "timeout": "2h", "target": 0.97},
    }
    spec = images_of(study_file.parse(given, "flowers.yaml"))
    assert (spec.budget.timeout, spec.search) == (7200, StudySpec.model_validate({"name": "x", "data": {"source": "digits"}}).search)


@pytest.mark.parametrize("key", DOCUMENTED, ids=lambda key: f"{key.field} {key.kind}")
def test_the_pages_document_every_key_with_its_value_default_and_meaning(key: SchemaKey) -> None:
    assert (heading_of(key), row(key)) in set(rows(PAGE))


def test_the_pages_document_no_key_that_does_not_exist() -> None:
    assert set(rows(PAGE)) <= {(heading_of(key), row(key)) for key in DOCUMENTED}


@pytest.mark.parametrize("key", [key for key in schema.all_keys() if not key.section], ids=lambda key: key.field)
def test_the_pages_list_the_top_level_keys(key: SchemaKey) -> None:
    assert re.search(rf"^\| \[?`{key.name}`", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("kind", sorted({f"{key.section}: {key.kind}" for key in schema.all_keys() if key.kind}))
def test_the_pages_describe_every_source_sampler_and_pruner(kind: str) -> None:
    section, name = kind.split(": ")
    form = rf"^## .*: `data: {{source: {name}}}`$" if section == "data" else rf"^\| `{name}` \|"
    assert re.search(form, PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("optimizer", search_section.LEARNING_RATES)
def test_the_pages_give_the_learning_rates_of_every_optimizer(optimizer: Optimizer) -> None:
    rates = (table[optimizer] for table in (search_section.LEARNING_RATES, search_section.PROBE_LEARNING_RATES))
    assert f"| {optimizer} | {' | '.join(f'`{shown(list(ends))}`' for ends in rates)} |" in PAGE


def test_the_pages_list_every_backbone() -> None:
    assert not [name for name in BACKBONES if name not in PAGE]


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
def test_every_example_on_the_pages_is_valid(example: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    images_of(study_file.parse({"name": "example", "data": {"source": "digits"}} | yaml_lines.read(path).value, "example"))


#: the page about user code, and its tasks
CODE_PAGE = (ROOT / "docs" / "your-own-code.md").read_text(encoding="utf-8")
OF_CODE: dict[str, type[AnyStudySpec]] = {"custom": CustomStudySpec, "objective": ObjectiveStudySpec}
CODE_KEYS = [key for kind in OF_CODE.values() for key in schema.all_keys(kind)]
CODE_SECTIONS = {key.section for key in CODE_KEYS}
CODE_DOCUMENTED = [key for key in CODE_KEYS if key.section and key.field not in CODE_SECTIONS and "const" not in key.node]


@pytest.mark.parametrize("key", CODE_DOCUMENTED, ids=lambda key: f"{key.field} {key.kind}")
def test_the_pages_document_every_key_of_code_of_the_users(key: SchemaKey) -> None:
    assert (heading_of(key), row(key)) in {*rows(CODE_PAGE), *rows(PAGE)}


def test_the_page_of_code_documents_no_key_that_does_not_exist() -> None:
    assert set(rows(CODE_PAGE)) <= {(heading_of(key), row(key)) for key in CODE_DOCUMENTED}


@pytest.mark.parametrize("task", OF_CODE)
def test_the_page_of_code_lists_the_top_level_keys(task: str) -> None:
    section = CODE_PAGE.partition(f"## Keys of `task: {task}`")[2].partition("\n#")[0]
    listed = {name for line in section.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    written = {"result", "retraining"}  # tuner writes them
    assert listed == {key.name for key in schema.all_keys(OF_CODE[task]) if not key.section} - written


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", CODE_PAGE, flags=re.DOTALL))
def test_every_example_on_the_page_of_code_is_valid(example: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    study_file.read(path)


def test_the_forms_of_searched_values_on_the_page_of_code_are_valid() -> None:
    section = CODE_PAGE.partition("## Searched values: `search`")[2].partition("\n#")[0]
    written = "\n".join(code for line in section.splitlines() if line.startswith("| ") for code in re.findall(r"`(\w+: [^`]+)`", line))
    assert len(written.splitlines()) > 6
    for line in (line for line in written.splitlines() if not line.startswith("when:")):
        search = {"optimizer": ["adam", "sgd", "rmsprop"], **yaml_lines.parse(line, Path("page.yaml")).value}
        study_file.parse({"name": "x", "task": "objective", "function": "a.py:b", "objective": "minimize", "search": search}, line)
