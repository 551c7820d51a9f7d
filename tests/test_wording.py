"""Wording: values and names as text for a message."""

from typing import Any

import pytest

from tuner import wording


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x", "'x'"),
        (True, "true"),
        (None, "null"),
        (32.0, "32"),
        (0.1, "0.1"),
        (1e-6, "1e-6"),
        (1.5e-10, "1.5e-10"),
        (0.12345678901, "0.12345678901"),
        (float("inf"), "inf"),
        ([1, "a", None], "[1, 'a', null]"),
        ({"range": [0, 0.5], "off": True}, "{range: [0, 0.5], off: true}"),
        ("x" * 100, "'" + "x" * 58 + "…"),
    ],
)
def test_a_value_is_shown_as_a_study_file_would_give_it(value: Any, shown: str) -> None:
    assert wording.show(value) == shown


@pytest.mark.parametrize(
    ("given", "names", "meant"),
    [
        ("dropuot", ["dropout", "loss"], "dropout"),
        ("CMA_ES", ["cma-es", "tpe"], "cma-es"),
        ("mix up", ["mixup", "zoom"], "mixup"),
        ("learningrate", ["learning_rate", "layer_decay"], "learning_rate"),
        ("xyz", ["dropout", "loss"], None),
        (5, ["dropout"], None),
    ],
)
def test_the_intended_name_is_found(given: object, names: list[str], meant: str | None) -> None:
    assert wording.nearest(given, names) == meant


def test_only_the_most_similar_of_many_names_are_listed() -> None:
    text = wording.known([f"other{number}" for number in range(40)] + ["dropout"], "dropuot")
    assert text.startswith("Known: ")
    assert text.endswith("dropout, …. Did you mean dropout?")


FLAT: list[tuple[Any, dict[str, Any]]] = [
    ({}, {}),
    ({"a": 1, "b": {"c": None, "d": {"e": "f"}}}, {"a": 1, "b.c": None, "b.d.e": "f"}),
    ({"widths": (64, 32), "empty": {}}, {"widths": [64, 32]}),
    ({"per_class": [{"name": "cat", "n": 3}, {"n": 4}]}, {"per_class.cat.name": "cat", "per_class.cat.n": 3, "per_class.1.n": 4}),
]


@pytest.mark.parametrize(("nested", "flat"), FLAT)
def test_nested_values_are_flattened_to_dotted_names(nested: Any, flat: dict[str, Any]) -> None:
    assert wording.flatten(nested) == flat


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["Bird [adult]", "Bear"], ["Bird [a…", "Bear"]),
        (["Bird [adult]", "Bird [angry]"], ["Bird…lt]", "Bird…ry]"]),
        (["Bird [adult] a", "Bird [adalt] a"], ["Bird [ 1", "Bird [ 2"]),
        (["a\nb", "a b"], [r"a\nb", "a b"]),
    ],
)
def test_short_names_stay_different(names: list[str], shown: list[str]) -> None:
    assert wording.shortened(names, longest=8) == shown


def test_markup_of_markdown_and_html_is_escaped() -> None:
    assert wording.markdown("a|b`c*d_e <b>&amp; [x](y) ~~z~~\n#1 \\ \x1b[0m\u202e") == (
        r"a\|b\`c\*d\_e \<b\>\&amp; \[x\](y) \~\~z\~\~ \#1 \\ \\u001b\[0m\\u202e"
    )


def test_a_line_of_a_file_has_no_other_line_inside() -> None:
    assert wording.one_line("a\nb\rc\u2028d\x0be\x85f\tg\u200f") == "a\\nb\\rc\\u2028d\\u000be\\u0085f\tg\u200f"
    assert len(wording.one_line("".join(map(chr, range(0x3000)))).splitlines()) == 1


def test_a_page_shows_any_writing_direction_but_no_controls() -> None:
    assert wording.visible_on_page("a\u202eb\x1b[0m\nmark\u200f") == "a\u202eb\\u001b[0m\nmark\\u200f"
