"""The pages against the program: the pages document everything, and everything that they name exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperCommand

from tuner.cli import main
from tuner.protocol import failure_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
DOCS = sorted((ROOT / "docs").glob("*.md"))
SOURCES = sorted((ROOT / "tuner").rglob("*.py"))
COMMANDS = sorted(typer.main.get_command(main.app).commands)  # type: ignore[attr-defined]
#: [text](target) and <target>, not those that go elsewhere
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
#: pages that were renamed or divided
OLD_PAGES = re.compile(r"\b(?:studies|operations|pages|taking-home)\.md\b")
#: files that may refer to a page
REFERRING = [
    *PAGES,
    *(path for pattern in ("*.yml", "*.toml", "Dockerfile", "Makefile") for path in ROOT.glob(pattern)),
    *(path for folder in ("benchmarks", "deploy", "studies", "tests", "tuner") for path in (ROOT / folder).rglob("*") if path.is_file()),
]
MAX_PAGE_LINES = 300
MAX_LINE = 120


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield from ((page, target) for target in LINK.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("page", "target"), [pytest.param(page, target, id=f"{page.name}-{target}") for page, target in links()])
def test_every_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    goal = (page.parent / path).resolve() if path else page
    assert goal.is_relative_to(ROOT)
    assert goal.exists()
    assert not anchor or anchor in anchors(goal)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_the_commands_page(command: str) -> None:
    assert re.search(rf"^### .*`tuner {command}`", text("docs/commands.md"), re.MULTILINE)


def test_the_readme_shows_ten_commands_at_most_and_links_to_the_rest() -> None:
    shown = re.findall(r"^\| `tuner ([a-z]+)\b", text("README.md"), re.MULTILINE)
    assert 0 < len(shown) <= 10
    assert "](docs/commands.md)" in text("README.md")


def test_the_readme_fits_two_screens_before_its_table_of_commands() -> None:
    assert len(text("README.md").partition("\n## Commands\n")[0].splitlines()) <= 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`tuner ([a-z]+)\b", page.read_text(encoding="utf-8")))
    blocks = "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    named |= set(re.findall(r"^(?:\$ )?tuner ([a-z]+)\b", blocks, re.MULTILINE))
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_is_there(page: Path) -> None:
    known = {name for command in commands() for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    known |= {"--version", "--help", "--editable"}
    assert set(re.findall(r"`(?:tuner [^`]*)?(--[a-z-]+)", page.read_text(encoding="utf-8"))) <= known


def commands() -> list[TyperCommand]:
    return list(below(typer.main.get_command(main.app)))


def below(group: Any) -> Iterator[Any]:
    """All commands of a group, and of the groups among them."""
    for command in group.commands.values():
        yield command
        if hasattr(command, "commands"):
            yield from below(command)


def test_every_environment_variable_is_on_the_settings_page() -> None:
    used = {name for source in SOURCES for name in re.findall(r"\bTUNER_[A-Z_]+\b", source.read_text(encoding="utf-8"))}
    used |= {str(parameter.envvar) for command in commands() for parameter in command.params if parameter.envvar}
    assert used
    assert used == set(re.findall(r"\bTUNER_[A-Z_]+\b", text("docs/settings.md")))


def test_the_table_of_what_can_go_wrong_is_the_codes() -> None:
    section = re.split(r"^#+ What can go wrong\n", text("docs/troubleshooting.md"), flags=re.MULTILINE)[1].partition("\n#")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines() if line.startswith("|")]
    assert rows[2:] == failure_table.rows()
    assert [row[0] for row in rows[2:]] == [failure.value for failure in failure_table.Failure]


def test_every_make_target_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert named <= targets


def test_every_package_is_on_the_architecture_page() -> None:
    packages = {path.stem if path.is_file() else f"{path.name}/" for path in (ROOT / "tuner").iterdir() if not path.name.startswith("__")}
    assert packages <= set(re.findall(r"`([a-z_]+/?)`", text("docs/architecture.md")))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_has_300_lines_at_most(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_PAGE_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_at_120_characters(page: Path) -> None:
    assert not [line for line in prose(page.read_text(encoding="utf-8")) if len(line) > MAX_LINE]


def prose(page: str) -> Iterator[str]:
    """The lines of a page outside tables, pictures and blocks of code, without the targets of links and without addresses."""
    is_code = False
    for line in page.splitlines():
        is_code ^= line.lstrip().startswith("```")
        if not is_code and not line.startswith(("|", "![")):
            yield re.sub(r"\]\([^)\s]+\)|<?https?://[^\s)>]+>?", "", line)


@pytest.mark.parametrize("page", [page for page in DOCS if page.name != "README.md"], ids=lambda page: page.name)
def test_every_page_is_in_the_index(page: Path) -> None:
    assert f"]({page.name})" in text("docs/README.md")


def test_nothing_refers_to_an_old_page() -> None:
    others = [path for path in REFERRING if path != Path(__file__) and path.suffix != ".pyc"]
    assert not [path for path in others if OLD_PAGES.search(path.read_text(encoding="utf-8", errors="replace"))]
