"""Tables of images and labels: as people have them, good and bad."""

import io
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from pydantic import ValidationError

from tests.tasks.images.data.conftest import noise
from tuner import errors, wording
from tuner.spec import study
from tuner.tasks.images.data import dataset, manifests, sources, splits


def manifest(path: Path, **more: str | Path | Sequence[str]) -> study.ManifestData:
    return study.ManifestData.model_validate({"source": "manifest", "path": path, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images whose labels are only in a table."""
    for number in range(6):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
    return tmp_path


def rows(*labels: str) -> str:
    return "\n".join(["path,label", *(f"{number}.png,{label}" for number, label in enumerate(labels))])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_a_table_names_images_and_labels(root: Path, tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"path": [f"{number}.png" for number in range(6)], "label": list("abcabc")})
    path = root / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    data = sources.open(manifest(path), cache=tmp_path / "cache")
    assert data.classes == ("a", "b", "c")
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.read(3) == noise(3)).all()


def test_columns_and_the_folder_of_the_images_may_have_other_names(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "t.csv"
    path.write_text("id,species,file\n" + "\n".join(f"7,{'ab'[number % 2]},{number}.png" for number in range(6)))
    data = sources.open(manifest(path, root=root, image_column="file", label_column="species"), cache=tmp_path / "cache")
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("10", "9", "10", "9", "2", "2"), ("2", "9", "10")),  # numbers, in their order
        (("01", "1", "01", "1", "01", "1"), ("01", "1")),  # different words all the same
        (("NA", "null", "NA", "null", "NA", "None"), ("NA", "None", "null")),  # words, not gaps
    ],
)
def test_labels_are_words(root: Path, tmp_path: Path, labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    (root / "t.csv").write_text(rows(*labels))
    assert sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache").classes == classes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,label\n0.png,a", "has no column path; its columns are file, label. Set data.image_column to one of them"),
        ("t.csv", "path,kind\n0.png,a", "has no column label; its columns are path, kind. Set data.label_column to one of them"),
        ("t.csv", "path,label\n0.png,a\n1.png,\n", "label is empty in 1 row, first in line 3"),
        ("t.csv", "path,label\n", "has no rows; expected one for each image"),
        ("t.csv", "", "cannot be read as a table: No columns to parse"),
        ("t.csv", 'path,label\n"0.png,a', "cannot be read as a table"),
        ("t.csv", rows(*"aaaaaa"), "has 1 class (a); expected at least two"),
        ("t.csv", "path,label\n8.png,a\n1.png,b\n", "8.png: there is no such file"),
        ("t.parquet", "no parquet", "cannot be read as a table"),
        ("t.txt", rows(*"ababab"), "is not a manifest; expected a file that ends in .csv, .tsv, .parquet, .pq"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(root: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(errors.DataError) as caught:
        sources.open(manifest(root / name), cache=tmp_path / "cache")
    assert str(caught.value).startswith((f"{root / name} ", f"{root / name}: "))
    assert message in str(caught.value)


def test_a_table_that_is_not_text_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "t.csv").write_bytes(b"path,label\n\xff\xfe.png,a\n")
    with pytest.raises(errors.DataError, match="cannot be read as a table: .*utf-8"):
        sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")


def test_missing_labels_of_a_parquet_table_are_refused(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": ["0.png", "1.png"], "label": ["a", None]}).to_parquet(root / "t.parquet")
    with pytest.raises(errors.DataError, match="label is empty in 1 row, first in line 3"):
        sources.open(manifest(root / "t.parquet"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("path", "root_name", "message"),
    [
        ("none.csv", None, "does not exist; expected a table. Check data.path"),
        (".", None, "is a folder; expected a table. For one sub-folder for each class, use data.source: folder"),
        ("t.csv", "nowhere", "is not a folder; check data.root"),
    ],
)
def test_a_missing_table_or_folder_is_reported_by_name(root: Path, tmp_path: Path, path: str, root_name: str | None, message: str) -> None:
    (root / "t.csv").write_text(rows(*"ababab"))
    more = {} if root_name is None else {"root": root / root_name}
    with pytest.raises(errors.DataError, match=message):
        sources.open(manifest(root / path, **more), cache=tmp_path / "cache")


def test_integers_of_a_parquet_table_are_labels(root: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": [f"{n}.png" for n in range(6)], "label": np.array([2, 10, 2, 10, 2, 10])}).to_parquet(root / "t.parquet")
    assert sources.open(manifest(root / "t.parquet"), cache=tmp_path / "cache").classes == ("2", "10")


TABLE = "path,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n"


def opened(data: study.ManifestData) -> dataset.Dataset:
    return sources.open(data, cache=data.path.parent / "cache")


def refused(data: study.ManifestData) -> str:
    with pytest.raises(errors.DataError) as caught:
        opened(data)
    return str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"], ids=lambda encoding: f"in {encoding}"
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_separator_encoding_and_line_ends_are_found(root: Path, separator: str, name: str, encoding: str, newline: str) -> None:
    text = TABLE.replace(",b", ",Löwe").replace(",", separator).replace("\n", newline)
    (root / name).write_bytes(text.encode(encoding))
    listed = manifests.list_manifest(manifest(root / name))
    assert listed.classes == ("Löwe", "a")
    assert listed.labels == (1, 0, 1, 0)
    assert listed.remarks == ()


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n0.png,a,\n1.png,b,\n",  # a surplus comma in each row
        "path,label,\n0.png,a,\n1.png,b,\n",
        "path,label\n0.png,a,,,\n1.png,b\n,,,\n\n \n",  # and rows of nothing, as Excel leaves them
        'sep=;\npath;label\n"0.png";"a"\n1.png;b\n',
        '"sep=;"\r\npath;label\r\n0.png;a\r\n1.png;b\r\n',
        ' path , "label"\n0.png , a \n1.png, "b"\n',
        "note;path;label\n1,5;0.png;a\n2,5;1.png;b\n",  # decimal commas
        'note,label,path\n"a ""dog"", near\na tree",a,0.png\n"x;y",b,1.png\n',  # quotes, a line break and a comma in a cell
        ",path,label\n0,0.png,a\n1,1.png,b\n",  # an index of pandas
        "path,label,path\n0.png,a,0.png\n1.png,b,1.png\n",
    ],
)
def test_a_table_is_read_as_people_write_it(root: Path, text: str) -> None:
    (root / "t.csv").write_text(text, newline="")
    data = opened(manifest(root / "t.csv"))
    assert data.classes == ("a", "b")
    assert [Path(data.name(row)).name for row in range(2)] == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\n0.png,a\n1,5.png,b\n",
            "has 3 cells in line 3, but names 2 columns: path, label. Put a cell that",
        ),
        ('path,label,note\n0.png,a,"x\ny"\n1.png,b,z,more\n', "has 4 cells in line 4"),
        ("path,label,label\n0.png,a,b\n", "has two different columns label; rename one of them"),
        ("file;kind\n0.png;a\n", "has no column path and no column label; its columns are file, kind. Set data.image_column and data.l"),
        ("My images\n\npath;label\n0.png;a\n1.png;b\n", "t.csv names its columns in line 3; remove the lines above it"),
        ('# from "here"\n#,\npath,label\n0.png,a\n1.png,b\n', "t.csv names its columns in line 3; remove the lines above it"),
        ("0.png,a\n1.png,b\n", "If this is an image already, add a first line with the names of the columns"),
        ("path,label\n0.png,a\n\n\n1.png,\n", "label is empty in 1 row, first in line 5"),
        ("path,label\n0.png\n", "label is empty in 1 row, first in line 2"),
        ('path,label\n0.png,a\n"1.png",a\n"2"x.png,b\n', "in the row that starts in line 4; check its quotes"),
        ('path,label\n0.png,a\n"1.png,b\n2.png,a\n', "in the row that starts in line 3; check its quotes"),
    ],
)
def test_a_table_with_several_readings_is_refused(root: Path, text: str, message: str) -> None:
    (root / "t.csv").write_text(text)
    assert message in refused(manifest(root / "t.csv"))


def test_a_table_of_windows_is_read_if_its_words_have_one_reading(root: Path) -> None:
    text = TABLE.replace(",a", ",Löwe").replace(",b", ",Bär") + "4.png,Straße\n5.png,Straße\n"
    (root / "t.csv").write_bytes(text.encode("cp1252"))
    data = opened(manifest(root / "t.csv"))
    assert data.classes == ("Bär", "Löwe", "Straße")
    assert dataset.notes(data)[0] == f"{root}/t.csv is not in UTF-8; it is read as cp1252, for example Bär. See data.encoding"


@pytest.mark.parametrize(
    ("word", "encoding", "readings"),
    [
        ("forêt", "cp1252", "forêt, foręt"),
        ("Löwe", "mac_roman", "Lšwe, "),
        ("кот", "cp1251", "êîò, "),
        ("cat–dog", "cp1252", "cat–dog, "),
        ("猫", "shift_jis", "”L, "),
        ("狗", "gbk", "¹·, "),
        ("Αλφα", "cp1253", "Áëöá, "),
    ],
)
def test_a_table_whose_encoding_is_not_clear_is_read_with_a_key(root: Path, word: str, encoding: str, readings: str) -> None:
    (root / "t.csv").write_bytes(TABLE.replace(",b", f",{word}").encode(encoding))
    message = refused(manifest(root / "t.csv"))
    assert "line 3 is not in utf-8, and its encoding is not clear; a word of it may be" in message
    assert readings in message
    assert message.endswith("Save the table in UTF-8, or set data.encoding, for example to cp1252")
    assert word in manifests.list_manifest(manifest(root / "t.csv", encoding=encoding)).classes


@pytest.mark.parametrize("name", ["utf-99", "base64", "rot13", "zip", "undefined", "a\0b", ""])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="expected an encoding such as utf-8"):
        manifest(Path("t.csv"), encoding=name)


def test_a_wrong_encoding_is_refused(root: Path) -> None:
    (root / "t.csv").write_bytes(TABLE.replace(",b", ",Löwe").encode("cp1252"))
    assert "t.csv is not in utf-8 (" in refused(manifest(root / "t.csv", encoding="utf-8"))
    with pytest.raises(ValueError, match="is 'klingon'; expected an encoding such as utf-8, utf-16, cp1252 or shift_jis"):
        manifest(root / "t.csv", encoding="klingon")


@pytest.mark.parametrize("name", ["t.xlsx", "t.XLS", "t.ods"])
def test_a_sheet_is_refused_with_the_way_out(root: Path, name: str) -> None:
    (root / name).write_bytes(b"PK")
    assert refused(manifest(root / name)).endswith("save the sheet as CSV in UTF-8")


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(noise(number)).save(content, "png")
    return content.getvalue()


def put_parquet(path: Path, columns: dict[str, Any], names: Any = None) -> Path:
    """Write a table as Hugging Face does, which keeps class names beside it."""
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {} if names is None else {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


IMAGES = [{"bytes": png(number), "path": f"{number}.png"} for number in range(4)]


@pytest.mark.parametrize("names", [["dog", "cat"], {"1": "cat", "0": "dog"}])
def test_a_table_of_hugging_face_holds_images_and_class_names(tmp_path: Path, names: Any) -> None:
    path = put_parquet(tmp_path / "t.parquet", {"image": IMAGES, "label": [0, 1, 0, 1]}, names)
    data = opened(manifest(path, image_column="image"))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.name(2) == f"{path}, row 3 (2.png)"
    assert (data.read(2) == noise(2)).all()
    assert [pixels.shape for pixels in data.images.map(lambda pixels: pixels, [0, 3], least=4)] == [(10, 12, 3)] * 2


@pytest.mark.parametrize("first", [0, 1])
def test_all_parts_of_a_table_are_read(tmp_path: Path, first: int) -> None:
    paths = [tmp_path / f"train-{number + first:05}-of-00002.parquet" for number in range(2)]
    put_parquet(paths[1], {"image": IMAGES[2:], "label": [1, 1]}, ["dog", "cat"])
    data = manifest(paths[1], image_column="image")
    if first == 0:
        assert "one of 2 parts of a table, but train-00000-of-00002.parquet is not in its folder. Add the missing parts" in refused(data)
    put_parquet(paths[0], {"image": IMAGES[:2], "label": [0, 0]}, ["dog", "cat"])
    found = opened(data)
    assert found.labels.tolist() == [1, 1, 0, 0]
    assert dataset.notes(found) == [f"{paths[1]} is read together with the other parts of the table, 2 in all"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_image_files_holds_images(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"image": pa.array([png(0), png(1)], kind), "label": pa.array(["a", "b"]).dictionary_encode()}
    data = opened(manifest(put_parquet(tmp_path / "t.parquet", columns), image_column="image"))
    assert data.classes == ("a", "b")
    assert data.name(1) == f"{tmp_path}/t.parquet, row 2"


def test_images_beside_the_table_of_hugging_face_are_found(root: Path) -> None:
    images = [{"bytes": None, "path": f"{number}.png"} for number in range(4)]
    data = opened(manifest(put_parquet(root / "t.parquet", {"image": images, "label": [0, 1, 0, 1]}, ["a", "b"]), image_column="image"))
    assert data.name(3) == str(root / "3.png")


def test_paths_as_bytes_and_in_the_index_of_pandas_are_paths(root: Path) -> None:
    put_parquet(root / "bytes.parquet", {"path": [b"0.png", b"1.png"], "label": [b"a", b"b"]})
    pd.DataFrame({"path": ["0.png", "1.png"], "label": pd.Categorical(["a", "b"])}).set_index("path").to_parquet(root / "index.parquet")
    for name in ("bytes.parquet", "index.parquet"):
        data = opened(manifest(root / name))
        assert (data.classes, data.name(1)) == (("a", "b"), str(root / "1.png"))


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"image": IMAGES, "label": [0, 1, -1, 1]}, ["a", "b"], "label is empty in 1 row, first in line 4"),
        ({"image": [*IMAGES[:3], None], "label": [0, 1, 0, 1]}, None, "holds images in only 3 of 4 rows"),
        ({"image": [[1, 2]] * 4, "label": [0, 1, 0, 1]}, None, "has lists, images or other bytes in line 2"),
        ({"image": IMAGES, "label": [png(0)] * 4}, None, "column label has lists, images or other bytes in line 2"),
        ({"image": [{"bytes": b"", "path": "x.png"}, *IMAGES[:3]], "label": [0, 1, 0, 1]}, None, "row 1 (x.png): the file is empty"),
        ({"image": [{"bytes": b"GIF89a\0", "path": None}, *IMAGES[:3]], "label": [0, 1, 0, 1]}, None, "row 1: "),
    ],
)
def test_a_table_of_images_that_cannot_be_used_is_refused(tmp_path: Path, columns: dict[str, Any], names: Any, message: str) -> None:
    said = refused(manifest(put_parquet(tmp_path / "t.parquet", columns, names), image_column="image"))
    assert message in said
    assert len(said) < 600


@pytest.mark.parametrize("field", ["path", "label"])
def test_no_message_shows_a_long_cell(root: Path, field: str) -> None:
    columns = {"path": ["0.png", "1.png"], "label": ["a", "b"]} | {field: ["x" * 2_700_000, "y" * 2_700_000]}
    put_parquet(root / "t.parquet", columns)
    (root / "t.csv").write_text(f"{field * 9_000},label\n0.png,a\n")
    said = refused(manifest(root / "t.parquet"))
    assert f"the column {field} has 2,700,000 characters ({'x' * 79}…) in line 2; expected text of at most" in said
    assert "x" * 81 not in said
    assert len(refused(manifest(root / "t.csv"))) < 600
    (root / "t.csv").write_text(f"path,label\n{'z' * 900}.png,a\n1.png,b\n")
    assert "z" * 81 not in refused(manifest(root / "t.csv"))
    (root / "t.csv").write_text(f"path,label\n{'z' * 900}.png,a\n" + "1.png,b\n2.png,a\n" * 100)
    notes = dataset.notes(opened(manifest(root / "t.csv")))
    assert notes[0] == f"left out because it cannot be read: {root}/{'z' * 79}…: there is no such file"


def test_a_long_class_name_is_shortened_in_messages(root: Path) -> None:
    (root / "t.csv").write_text(rows(*["z" * 200] * 6))
    assert f"has 1 class ({'z' * 79}…); expected at least two" in refused(manifest(root / "t.csv"))
    (root / "t.csv").write_text(rows("z" * 200, *"aaaaa"))
    data = manifest(root / "t.csv")
    with pytest.raises(errors.DataError, match=f"the class {'z' * 79}… has 1 different image"):
        splits.split(opened(data), data, 0)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Six images in two folders, as HAM10000 has them."""
    for number in range(6):
        folder = tmp_path / "skin" / f"part_{number % 2 + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / f"ISIC_{number}.png")
    return tmp_path / "skin"


def ids(parts: Path, form: str, **more: str | Path) -> study.ManifestData:
    """Return a table that names the images in some form."""
    (parts / "t.csv").write_text("path,label\n" + "\n".join(f"{form.format(n=n, part=n % 2 + 1)},{'ab'[n // 3]}" for n in range(6)))
    return manifest(parts / "t.csv", **more)


@pytest.mark.parametrize(
    "form",
    [
        "ISIC_{n}", "ISIC_{n}.png", "isic_{n}", "ISIC_{n}.PNG", "part_{part}/ISIC_{n}", "part_{part}\\ISIC_{n}.png", "./ISIC_{n}",
        "PART_{part}/ISIC_{n}.png", "part_{part}/ISIC_{n}.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", [".", "skin"])
def test_an_image_is_found_by_its_name(parts: Path, form: str, folder: str) -> None:
    data = opened(ids(parts, form, root=parts.parent if folder == "." else parts))
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [data.name(row) for row in range(6)] == [f"{parts}/part_{n % 2 + 1}/ISIC_{n}.png" for n in range(6)]


@pytest.mark.parametrize("form", ["{n}", "{n}.0", "00{n}", "000{n}.png"])
def test_an_image_is_found_by_a_number_that_a_spreadsheet_rewrote(tmp_path: Path, form: str) -> None:
    for number in range(10, 16):
        (tmp_path / "all").mkdir(exist_ok=True)
        Image.fromarray(noise(number)).save(tmp_path / "all" / f"0{number}.png")
    rows = "".join(f"{form.format(n=number)},{'ab'[number % 2]}\n" for number in range(10, 16))
    (tmp_path / "t.csv").write_text("path,label\n" + rows)
    if form.endswith(".png"):  # the name of another file
        assert f"There is all/010.png below {tmp_path}" in refused(manifest(tmp_path / "t.csv"))
    else:
        assert opened(manifest(tmp_path / "t.csv")).name(5) == f"{tmp_path}/all/015.png"


def test_images_that_were_found_by_name_are_reported(parts: Path) -> None:
    assert dataset.notes(opened(ids(parts, "ISIC_{n}"))) == [
        f"found below {parts} by name: 6 images, first ISIC_0, which is part_1/ISIC_0.png"
    ]


@pytest.mark.parametrize("other", ["part_2/ISIC_0.png", "part_1/ISIC_0.jpg", "deep/er/ISIC_0.png"])
def test_a_name_of_two_images_is_refused(parts: Path, other: str) -> None:
    (parts / other).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(99)).save(parts / other)
    said = refused(ids(parts, "ISIC_{n}"))
    assert f"t.csv: ISIC_0 is the name of 2 different images below {parts}: " in said
    assert other in said
    assert said.endswith("Set data.root to the folder of the right ones, or write their paths into the table")


def test_a_broken_link_is_another_image(parts: Path) -> None:
    (parts / "part_2" / "ISIC_0.png").symlink_to("missing")
    assert "ISIC_0 is the name of 2 different images" in refused(ids(parts, "ISIC_{n}"))


def test_a_copy_of_an_image_is_no_other_image(parts: Path) -> None:
    (parts / "part_2" / "ISIC_0.png").write_bytes((parts / "part_1" / "ISIC_0.png").read_bytes())
    assert opened(ids(parts, "ISIC_{n}")).name(0) == f"{parts}/part_1/ISIC_0.png"


def test_hidden_files_and_litter_are_not_found(parts: Path) -> None:
    for place in ("__MACOSX/part_1", ".cache"):
        (parts / place).mkdir(parents=True)
        Image.fromarray(noise(99)).save(parts / place / "ISIC_0.png")
    assert opened(ids(parts, "ISIC_{n}")).name(0) == f"{parts}/part_1/ISIC_0.png"


@pytest.mark.parametrize(
    ("form", "cure"),
    [
        (
            "SCAN_{n}",
            "Set data.root to the folder that the paths start from (now {parts}), or data.image_column",
        ),
        (
            "/home/me/skin/ISIC_{n}.png",
            "It is a path of another machine. There is part_1/ISIC_0.png below {parts}: write the paths relative to data.root",
        ),
        ("C:\\skin\\ISIC_{n}.png", "It is a path of another machine. There is part_1/ISIC_0.png below {parts}"),
        ("other/ISIC_{n}.png", "There is part_1/ISIC_0.png below {parts}"),  # never a guess: the folder is another one
        ("https://example.org/ISIC_{n}.png", "download the images, and name their files. There is part_1/ISIC_0.png below {parts}"),
        ("/data/local-files/?d=x%5CISIC_{n}.png", "It is a path of another machine. There is part_1/ISIC_0.png below {parts}"),
        ("s3://bucket/a{n}.png", "It is a web address: download the images, and name their files"),
        ("ISIC_{n}.png;ISIC_1.png", "It names 2 images, but tuner learns one image for each row: write a row for each"),
        ("ISIC_{n}|part_2/ISIC_1.png", "It names 2 images"),
        ("['ISIC_{n}.png'; 'ISIC_1.png'; 'ISIC_2.png']", "It names 3 images"),
        ("ISIC_{n}.dcm", "There is part_1/ISIC_0.png below {parts}"),  # another ending, perhaps other pixels
    ],
)
def test_images_that_are_not_there_are_refused_with_the_key_to_set(parts: Path, form: str, cure: str) -> None:
    said = refused(ids(parts, form))
    assert f"t.csv: 6 of 6 images cannot be found, first {form.format(n=0)}: there is no such file" in said
    assert cure.format(parts=parts) in said


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_nfc(tmp_path: Path, in_table: Any, on_disk: Any) -> None:
    for number in range(4):
        place = tmp_path / unicodedata.normalize(on_disk, "Zoo für Löwen") / unicodedata.normalize(on_disk, f"Löwe_{number}.png")
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(number)).save(place)
    labels = [unicodedata.normalize(in_table if number < 2 else on_disk, "Löwe") for number in range(3)] + ["Bär"]
    rows = "".join(unicodedata.normalize(in_table, f"Zoo für Löwen/Löwe_{number}.png,{label}\n") for number, label in enumerate(labels[:2]))
    rows += f"Zoo für Löwen/Löwe_2.png,{labels[2]}\nZoo für Löwen/Löwe_3,{labels[3]}\n"
    (tmp_path / "t.csv").write_text(unicodedata.normalize(in_table, "größe,label\n") + rows)
    data = opened(manifest(tmp_path / "t.csv", image_column=unicodedata.normalize(on_disk, "größe")))
    assert data.classes == tuple(unicodedata.normalize("NFC", name) for name in ("Bär", "Löwe"))
    assert data.labels.tolist() == [1, 1, 1, 0]
    root = unicodedata.normalize(in_table, str(tmp_path / "Zoo für Löwen"))
    assert manifest(tmp_path / "t.csv", root=root).root == tmp_path / unicodedata.normalize(on_disk, "Zoo für Löwen")


def test_a_study_of_an_earlier_version_reads_its_table_as_before(root: Path) -> None:
    put_parquet(root / "t.parquet", {"path": [f"{n}.png" for n in range(4)], "label": [0, 1, 0, 1]}, ["dog", "cat"])
    assert opened(manifest(root / "t.parquet", class_order="earlier")).classes == ("0", "1")
    (root / "t.csv").write_text("path,label\n0.png,class 2\n1.png,class 10\n")
    assert opened(manifest(root / "t.csv", class_order="earlier")).classes == ("class 10", "class 2")
    assert opened(manifest(root / "t.csv")).classes == ("class 2", "class 10")


def test_a_column_of_a_table_names_the_group_of_each_image(root: Path, tmp_path: Path) -> None:
    (root / "t.csv").write_text(
        "path,label,patient_id\n" + "\n".join(f"{number}.png,{'ab'[number % 2]},p{number // 2}" for number in range(6))
    )
    data = sources.open(manifest(root / "t.csv", group_column="patient_id"), cache=tmp_path / "cache")
    assert data.groups is not None
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.remarks == ()
    with pytest.raises(errors.DataError, match="has no column person; its columns are .* Set data.group_column to one of them"):
        sources.open(manifest(root / "t.csv", group_column="person"), cache=tmp_path / "cache")


@pytest.mark.parametrize("column", ["patient_id", "PatientID", "lesion_id", "Subject", "video", "session id"])
def test_a_column_that_seems_to_name_groups_is_reported(root: Path, tmp_path: Path, column: str) -> None:
    (root / "t.csv").write_text(
        f"path,label,{column}\n" + "\n".join(f"{number}.png,{'ab'[number % 2]},p{number // 2}" for number in range(6))
    )
    (remark,) = sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache").remarks
    assert remark.startswith(
        f"the table has the column {column} with 3 values for 6 images. If images with the same value belong together, "
    )
    assert f"set data.group_column: {column};" in remark


@pytest.mark.parametrize(
    ("column", "values"), [("age", "aabbcc"), ("patient_id", "abcdef"), ("patient_id", "aaaaaa"), ("image_id", "aabbcc")]
)
def test_a_column_that_groups_nothing_is_not_reported(root: Path, tmp_path: Path, column: str, values: str) -> None:
    (root / "t.csv").write_text(f"path,label,{column}\n" + "\n".join(f"{n}.png,{'ab'[n % 2]},{values[n]}" for n in range(6)))
    assert sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache").remarks == ()


def test_a_column_of_a_table_names_the_official_splits(root: Path, tmp_path: Path) -> None:
    names = ["train", "Training", "valid", "eval", "train", "train"]
    (root / "t.csv").write_text(
        "path,label,data set\n" + "\n".join(f"{number}.png,{'ab'[number % 2]},{names[number]}" for number in range(6))
    )
    data = sources.open(manifest(root / "t.csv", split_column="data set"), cache=tmp_path / "cache")
    assert data.official is not None
    train = dataset.TRAIN
    assert data.official.tolist() == [train, train, dataset.VALIDATION, dataset.TEST, train, train]
    assert data.remarks == ()
    drawn = sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")
    assert drawn.official is None
    assert drawn.remarks == (
        "the table has the column data set with Training, eval, train, valid, but splits are drawn from all rows; to use its splits, "
        "set data.split_column: data set",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["train", "train", "test", "test", "holdme", "holdme"],
            "the column s has the value holdme in 2 rows; expected names of splits such as",
        ),
        (["val", "val", "val", "test", "test", "test"], "the column s has only test, val; expected images for training, too: train"),
        (["train", "train", "eval", "eval", "eval", "eval"], "the column s has the value eval in 4 rows"),  # validation or test
    ],
)
def test_a_column_that_names_no_splits_is_refused(root: Path, tmp_path: Path, values: list[str], message: str) -> None:
    (root / "t.csv").write_text("path,label,s\n" + "\n".join(f"{number}.png,{'ab'[number % 2]},{values[number]}" for number in range(6)))
    with pytest.raises(errors.DataError, match=message):
        sources.open(manifest(root / "t.csv", split_column="s"), cache=tmp_path / "cache")


def test_a_column_of_parquet_that_names_splits_is_reported(root: Path) -> None:
    columns = {"path": [f"{n}.png" for n in range(6)], "label": list("ababab"), "split": pa.array(["train", "val"] * 3).dictionary_encode()}
    (remark,) = opened(manifest(put_parquet(root / "t.parquet", columns))).remarks
    assert remark.endswith("set data.split_column: split")


@pytest.mark.parametrize(
    "form",
    [
        "file://{parts}/part_{part}/ISIC_{n}.png",
        "FILE://localhost{parts}/part_{part}/ISIC_{n}.png",
        "file:{parts}/part_{part}/ISIC%5F{n}.png",
        "part_{part}/ISIC%5F{n}.png",
        "['part_{part}/ISIC_{n}.png']",
        "/data/local-files/?d=part_{part}/ISIC_{n}.png",  # Label Studio
        "http://localhost:8080/data/local-files/?d=part_{part}%2FISIC_{n}.png",
    ],
)
def test_a_path_in_another_notation_is_read(parts: Path, form: str) -> None:
    form = form.replace("{parts}", str(parts))
    data = opened(ids(parts, form))
    assert [data.name(row) for row in range(6)] == [f"{parts}/part_{row % 2 + 1}/ISIC_{row}.png" for row in range(6)]
    first = wording.cut(form.format(part=1, n=0))
    assert dataset.note_ignored(data) == [f"read in another notation: 6 paths, first {first}, which is {parts}/part_1/ISIC_0.png"]


def test_a_path_below_the_home_folder_is_read(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(parts))
    assert opened(ids(parts, "~/part_{part}/ISIC_{n}.png")).name(5) == f"{parts}/part_2/ISIC_5.png"


def test_a_name_with_a_percent_sign_is_taken_as_it_is_first(tmp_path: Path) -> None:
    for number, name in enumerate(["a%20b.png", "a b.png", "c.png", "d.png"]):
        Image.fromarray(noise(number)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("path,label\na%20b.png,x\nc.png,y\nd.png,x\n")
    assert (opened(manifest(tmp_path / "t.csv")).read(0) == noise(0)).all()


def test_encoded_names_are_found_below_the_root(parts: Path) -> None:
    assert opened(ids(parts, "ISIC%5F{n}")).name(0) == f"{parts}/part_1/ISIC_0.png"


@pytest.mark.parametrize("value", ["nan", "NaN", "#N/A", "<NA>", "NaT", "#REF!"])
def test_a_missing_label_is_refused_as_programs_write_it(root: Path, value: str) -> None:
    (root / "t.csv").write_text(rows("a", "b", value, "a", value, "b"))
    said = refused(manifest(root / "t.csv"))
    assert said == (
        f"{root}/t.csv: the column label has {value}, which programs write for a missing value, in 2 rows, first in line 4; "
        "fill it in, remove the rows, or give the value another name"
    )
    assert value in opened(manifest(root / "t.csv", class_order="earlier")).classes  # a study of an earlier version keeps its classes


def test_a_missing_group_is_refused(root: Path) -> None:
    (root / "t.csv").write_text("path,label,who\n" + "".join(f"{n}.png,{'ab'[n % 2]},{['p', 'nan'][n // 3]}\n" for n in range(6)))
    assert "the column who has nan, which programs write for a missing value, in 3 rows" in refused(
        manifest(root / "t.csv", group_column="who")
    )


@pytest.mark.parametrize("one", ["1", "1.0"])
def test_a_column_for_each_class_is_refused_with_the_command_that_joins_them(root: Path, one: str) -> None:
    zero = one.replace("1", "0")
    text = "".join(f"{n}.png,{[one, zero][n % 2]},{[zero, one][n % 2]}\n" for n in range(6))
    (root / "t.csv").write_text("path,MEL,NV\n" + text)
    said = refused(manifest(root / "t.csv"))
    assert "has no column label, but a column of 0 and 1 for each class: MEL, NV." in said
    command = said.split("pandas: ")[1]
    assert command == """table['label'] = table[["MEL", "NV"]].idxmax(axis=1)"""
    table = pd.read_csv(root / "t.csv")
    exec(command, {"table": table})
    table.to_csv(root / "t.csv")
    assert opened(manifest(root / "t.csv")).classes == ("MEL", "NV")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("train.csv", ["val.csv"]),
        ("labels_train.csv", ["labels_test.csv", "labels_val.csv"]),
        ("train-00000-of-00001.parquet", ["test-00000-of-00001.parquet"]),
    ],
)
def test_tables_of_other_splits_are_named(root: Path, name: str, others: list[str]) -> None:
    table = pd.DataFrame({"path": [f"{number}.png" for number in range(6)], "label": list("ababab")})
    for each in [name, *others]:
        table.to_parquet(root / each) if name.endswith("parquet") else table.to_csv(root / each, index=False)
    (root / "test.csv").write_text("path\n0.png\n")  # has no labels
    verb = "has" if len(others) == 1 else "have"
    assert opened(manifest(root / name)).remarks == (
        f"only {name} is read. {' and '.join(others)} beside it {verb} the same columns; to use them as splits, join the tables with a "
        "column that names the split of each row, and set data.split_column",
    )


def test_other_tables_are_not_taken_for_splits(root: Path) -> None:
    for name in ("train.csv", "other.csv", "labels_val.csv"):
        (root / name).write_text(rows(*"ababab"))
    assert opened(manifest(root / "train.csv")).remarks == ()
    assert opened(manifest(root / "other.csv")).remarks == ()


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        (("0", "1", "2"), ". Write these words instead of numbers; Ludwig writes 0 for train, 1 for validation and 2 for test"),
        (("True", "False", "False"), ". Write these words instead of true and false"),
        (("A", "B", "C"), "expected names of splits such as train, validation and test"),
    ],
)
def test_splits_as_other_programs_write_them_are_refused_and_suggested(root: Path, values: tuple[str, ...], cure: str) -> None:
    (root / "t.csv").write_text("path,label,split\n" + "".join(f"{n}.png,{'ab'[n % 2]},{values[n // 2]}\n" for n in range(6)))
    assert refused(manifest(root / "t.csv", split_column="split")).endswith(cure)
    named = ", ".join(sorted(set(values)))
    assert opened(manifest(root / "t.csv")).remarks == (
        f"the table has the column split with {named}, but splits are drawn from all rows; to use it, write train, validation and test "
        "into it, and set data.split_column: split",
    )


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("coco.json", "; write a table with a row for each image, its path and its class"),
        ("list.txt", "; write it as a .csv table: commas between the columns, and their names in the first line"),
        ("t.feather", "; save the table as .parquet or .csv"),
        ("t.md", "expected a file that ends in .csv, .tsv, .parquet, .pq, .jsonl, .ndjson"),
    ],
)
def test_another_kind_of_file_is_refused_with_what_to_do(root: Path, name: str, cure: str) -> None:
    (root / name).write_text("x")
    assert refused(manifest(root / name)).endswith(cure)


def test_columns_between_spaces_are_refused_with_what_to_do(root: Path) -> None:
    (root / "t.csv").write_text("path label\n0.png a\n")
    assert refused(manifest(root / "t.csv")).endswith("put commas, semicolons, tabs or bars between the columns")


def test_names_with_other_endings_are_refused_with_what_to_do(root: Path) -> None:
    (root / "t.csv").write_text(rows(*"ababab").replace(".png", ".jpg"))
    assert refused(manifest(root / "t.csv")).endswith(f"There is 0.png below {root}: correct the endings in the table")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PK\x03\x04", "is an Excel sheet or a zip archive, whatever its name says; expected text. Save the sheet as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an Excel sheet, whatever its name says; expected text. Save the sheet as CSV in UTF-8"),
        (b"\x1f\x8b\x08", "is compressed by gzip, whatever its name says; expected text. Unpack it with gunzip"),
        (b"PAR1\x15", "is a Parquet table, whatever its name says; expected text. Rename it to end in .parquet"),
    ],
)
def test_a_file_that_is_no_text_is_named(root: Path, start: bytes, said: str) -> None:
    (root / "t.csv").write_bytes(start + b"\0" * 100)
    assert said in refused(manifest(root / "t.csv"))


def test_names_from_web_addresses_are_found(root: Path, tmp_path: Path) -> None:
    for number in range(6):
        (root / f"{number}.png").rename(root / f"my {number}.png")
    (root / "t.csv").write_text(rows(*"ababab").replace("\n", "\nmy%20"))
    assert len(sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")) == 6


def test_rows_are_left_out_by_class_or_path(root: Path, tmp_path: Path) -> None:
    (root / "t.csv").write_text(rows("a", "b", "unsure", "a", "b", "a") + "\nmore/old/9.png,b\n")
    found = manifests.list_manifest(manifest(root / "t.csv", ignore=["unsure", "old", "5.*"]))
    assert (found.classes, [Path(str(path)).name for path in found.paths]) == (("a", "b"), ["0.png", "1.png", "3.png", "4.png"])
    assert "left out by data.ignore: 5.png, old, unsure (3 rows)" in found.remarks
    with pytest.raises(errors.DataError, match="data.ignore has x, which matches no class and no path of"):
        manifests.list_manifest(manifest(root / "t.csv", ignore=["x"]))
    with pytest.raises(errors.DataError, match="data.ignore leaves out all 7 rows; remove a pattern"):
        manifests.list_manifest(manifest(root / "t.csv", ignore=["*"]))


@pytest.mark.parametrize("given", ["unsure", [3], [""], ["/"], {"a": 1}])
def test_patterns_that_are_no_list_of_texts_are_refused(root: Path, given: Any) -> None:
    with pytest.raises(ValidationError, match="expected a list of names or shell patterns"):
        manifest(root / "t.csv", ignore=given)


def test_rows_without_a_label_or_group_can_be_left_out(root: Path) -> None:
    (root / "t.csv").write_text("path,label,who\n0.png,a,p\n1.png,nan,q\nold/2.png,,\n3.png,b,r\n4.png,a,s\n5.png,b,nan\n")
    data = opened(manifest(root / "t.csv", ignore=("nan", "old", "5.png"), group_column="who"))
    assert (data.classes, [Path(data.name(row)).name for row in range(len(data))]) == (("a", "b"), ["0.png", "3.png", "4.png"])
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 2]


def test_rows_are_left_out_by_the_path_that_a_cell_means(root: Path) -> None:
    (root / "t.csv").write_text(rows(*"ababab").replace("0.png", "my%20cat.png"))
    data = opened(manifest(root / "t.csv", ignore=("my cat.png",)))
    assert dataset.note_ignored(data) == ["left out by data.ignore: my cat.png (1 row)"]


def test_images_inside_a_table_keep_the_numbers_of_their_rows(root: Path) -> None:
    images = [(root / f"{number}.png").read_bytes() for number in range(6)]
    table = put_parquet(root / "t.parquet", {"image": images, "label": list("xababa")})
    data = opened(manifest(table, image_column="image", ignore=("x",)))
    assert [data.name(row) for row in (0, 4)] == [f"{table}, row 2", f"{table}, row 6"]


def test_paths_in_quotes_are_read(root: Path, tmp_path: Path) -> None:
    (root / "t.csv").write_text("path,label\n" + "\n".join(f"'{number}.png',{'ab'[number % 2]}" for number in range(6)))
    data = sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")
    assert len(data) == 6
    assert data.remarks == (f"read in another notation: 6 paths, first '0.png', which is {root}/0.png",)


@pytest.mark.parametrize("longest", [40, 4_000])
@pytest.mark.parametrize("start", ["/9j/4AAQSkZJRg", "iVBORw0KGgoAAAANSUhEUg", "data:image/png;base64,iVBORw0KGgo", "b'\\x89PNG"])
def test_images_written_as_text_are_refused_with_the_way_to_decode_them(root: Path, tmp_path: Path, start: str, longest: int) -> None:
    cell = start.ljust(longest, "A")
    (root / "t.csv").write_text(f'path;label\n"{cell}";a\n"{cell}";b\n')
    with pytest.raises(errors.DataError, match="It seems to be an image written as text: decode the images") as raised:
        sources.open(manifest(root / "t.csv"), cache=tmp_path / "cache")
    assert len(str(raised.value)) < 600


def test_a_table_of_roboflow_is_refused_with_a_command_that_reads_it(root: Path) -> None:
    (root / "_classes.csv").write_text("path, cat, dog\n" + "".join(f"{n}.png, {n % 2}, {1 - n % 2}\n" for n in range(6)))
    said = refused(manifest(root / "_classes.csv"))
    assert "If spaces follow the commas, read the table with skipinitialspace=True." in said
    table = pd.read_csv(root / "_classes.csv", skipinitialspace=True)
    exec(said.split("pandas: ")[1], {"table": table})
    table.to_csv(root / "_classes.csv", index=False)
    assert opened(manifest(root / "_classes.csv")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("path,label\n0.png,'big cat'\n1.png,'dog'\n2.png,'big cat'\n3.png,'dog'\n", "'big cat'"),
        ("path;label\n0.png;\"'big cat'\"\n1.png;'dog'\n2.png; 'big cat'\n3.png;'dog'\n", "'big cat'"),
        ("path,label\n0.png,“big cat”\n1.png,“dog”\n2.png,“big cat”\n3.png,“dog”\n", "“big cat”"),
        ('path,label\n0.png,"""big cat"""\n1.png,"""dog"""\n2.png,"""big cat"""\n3.png,"""dog"""\n', '"big cat"'),
        ("path\tlabel\n0.png\t`big cat`\n1.png\t`dog`\n2.png\t`big cat`\n3.png\t`dog`\n", "`big cat`"),
    ],
)
def test_labels_that_all_have_quotes_are_read_without_them(root: Path, text: str, first: str) -> None:
    (root / "t.csv").write_text(text)
    data = opened(manifest(root / "t.csv"))
    assert (data.classes, data.labels.tolist()) == (("big cat", "dog"), [0, 1, 0, 1])
    assert data.remarks == (f"read without its quotes: the column label, first {first}",)
    assert (
        opened(manifest(root / "t.csv", class_order="earlier")).classes != data.classes
    )  # a study of an earlier version keeps its classes


def test_a_table_in_single_quotes_is_read(root: Path) -> None:
    lines = [f"'{n}.png','{'ab'[n % 2]}, ''x''','{'train' if n < 4 else 'test'}'" for n in range(6)]
    (root / "t.csv").write_text("\n".join(["'path','label','my split'", *lines]))
    data = opened(manifest(root / "t.csv", split_column="my split"))
    assert (data.classes, data.remarks) == (("a, 'x'", "b, 'x'"), ())


def test_a_label_with_quotes_beside_one_without_is_reported(root: Path) -> None:
    (root / "t.csv").write_text(rows("'a'", "b", "a", "b", "a", "rock 'n'"))
    assert any("the class names ''a'' and 'a' differ only in" in note for note in dataset.notes(opened(manifest(root / "t.csv"))))


@pytest.mark.parametrize("again", ["0.png", "./0.png", "{root}/0.png", "0"])
def test_an_image_in_two_rows_with_two_labels_is_refused(root: Path, again: str) -> None:
    (root / "t.csv").write_text(rows("cat", "dog", "cat", "dog") + f"\n1.png,dog\n{again.replace('{root}', str(root))},dog\n")
    assert refused(manifest(root / "t.csv")) == (
        f"{root}/t.csv lists 1 image with several labels, first {root}/0.png: cat in line 2 and dog in line 7. tuner learns one label for "
        "each image: keep the row with the right one, or write a table with one row for each image"
    )


def test_a_study_of_an_earlier_version_keeps_an_image_with_two_labels(root: Path) -> None:
    (root / "t.csv").write_text(rows("cat", "dog", "cat", "dog") + "\n0.png,dog\n")
    assert opened(manifest(root / "t.csv", class_order="earlier")).labels.tolist() == [0, 1, 0, 1, 1]


@pytest.mark.parametrize("name", ["metadata.jsonl", "t.ndjson"])
def test_a_table_of_json_lines_is_read(root: Path, name: str) -> None:
    found = [{"file_name": f"{n}.png", "label": "Löwe" if n % 2 else 7, "objects": {"bbox": [[1, 2]]}} for n in range(6)]
    (root / name).write_text("\r\n".join([*map(json.dumps, found), "", ""]))
    data = opened(manifest(root / name, image_column="file_name"))
    assert (data.classes, data.labels.tolist()) == (("7", "Löwe"), [0, 1] * 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"path": "0.png", "label": "a"}\n{"path": "1.png"\n', "t.jsonl cannot be read as a table: line 2 is not JSON"),
        ('["0.png", "a"]\n', "line 1 is not an object of JSON, such as {"),
        ('{"path": "0.png", "label": "a"}\n{"path": "1.png"}\n', "the column label is empty in 1 row, first in line 2"),
        ('{"path": "0.png", "label": ["a", "b"]}\n', "the column label has lists, images or other bytes in line 1"),
        ('{"image": "0.png", "class": "a"}\n', "has no column path and no column label; its columns are image, class"),
        ("\n", "the file is empty"),
    ],
)
def test_json_lines_with_mistakes_are_refused_with_their_line(root: Path, text: str, said: str) -> None:
    (root / "t.jsonl").write_text(text)
    assert said in refused(manifest(root / "t.jsonl"))
