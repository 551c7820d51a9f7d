"""Folders as people unpack them: split names, wrapping folders, and counts of what is left out."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.tasks.images.data import dataset, folders, listings

TRAIN, VALIDATION, TEST = dataset.TRAIN, dataset.VALIDATION, dataset.TEST


def put(root: Path, *places: str) -> Path:
    """Put a different image at each place below a folder; a place that ends in a slash gets `a.png`."""
    for number, place in enumerate(places):
        path = root / (f"{place}a.png" if place.endswith("/") else place)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(path)
    return root


def read(root: Path) -> list[tuple[str, int]]:
    """Return the class and the official split of each image, sorted."""
    found = listings.list_folder(root)
    official = found.official or [dataset.NONE] * len(found.paths)
    return sorted((found.classes[label], side) for label, side in zip(found.labels, official, strict=True))


def both(*places: str) -> list[str]:
    return [f"{place}/{name}/" for place in places for name in ("cats", "dogs")]


TRAIN_AND_TEST = [("cats", TRAIN), ("cats", TEST), ("dogs", TRAIN), ("dogs", TEST)]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "test"),
        ("training_set/training_set", "test_set/test_set"),
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("Training", "Testing"),
        ("train-images", "test-images"),
        ("TrainSet", "TestSet"),
        ("trainset", "testset"),
        ("train2017", "test2017"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_test"),
        ("dataset/train", "dataset/test"),
        ("archive/Data Set/Train Data", "archive/Data Set/Test Data"),
    ],
)
def test_names_of_splits_and_wrapping_folders_are_recognized(tmp_path: Path, train: str, test: str) -> None:
    assert read(put(tmp_path, *both(train, test))) == TRAIN_AND_TEST


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation_Set", "dev", "eval", "evaluation"])
def test_a_validation_split_has_many_names(tmp_path: Path, name: str) -> None:
    assert read(put(tmp_path, *both("train", "test"), f"{name}/cats/"))[1] == ("cats", VALIDATION)


def test_an_evaluation_split_beside_a_validation_split_is_for_the_test(tmp_path: Path) -> None:
    assert read(put(tmp_path, *both("training", "evaluation"), "validation/cats/"))[2] == ("cats", TEST)


def test_splits_may_be_inside_the_classes(tmp_path: Path) -> None:
    assert read(put(tmp_path, "cats/train/", "cats/test/", "dogs/train/", "dogs/test/")) == TRAIN_AND_TEST


def test_a_class_may_lack_a_split(tmp_path: Path) -> None:
    assert read(put(tmp_path, *both("train"), "val/cats/", "test/dogs/")) == [
        ("cats", TRAIN), ("cats", VALIDATION), ("dogs", TRAIN), ("dogs", TEST),
    ]  # fmt: skip
    assert read(put(tmp_path / "inside", "cats/train/", "cats/test/", "dogs/train/")) == TRAIN_AND_TEST[:3]


@pytest.mark.parametrize("above", ["", "flowers/", "archive/flowers/"])
def test_classes_inside_wrapping_folders_are_found_and_the_folder_is_named(tmp_path: Path, above: str) -> None:
    root = put(tmp_path / "photos", f"{above}rose/", f"{above}tulip/")
    assert read(root) == [("rose", dataset.NONE), ("tulip", dataset.NONE)]
    assert listings.list_folder(root).remarks == ((f"the classes are in {root}/{above.rstrip('/')}",) if above else ())


def test_a_train_folder_alone_contains_the_classes(tmp_path: Path) -> None:
    assert read(put(tmp_path, *both("train"))) == [("cats", dataset.NONE), ("dogs", dataset.NONE)]


@pytest.mark.parametrize(
    "classes",
    [
        ("train", "bus", "car"),  # vehicles
        ("train_station", "test_tube"),
        ("valid", "invalid"),
        ("Test", "Control"),
        ("0", "1"),
    ],
)
def test_classes_whose_names_contain_words_of_splits_remain_classes(tmp_path: Path, classes: Sequence[str]) -> None:
    assert read(put(tmp_path, *(f"{name}/" for name in classes))) == sorted((name, dataset.NONE) for name in classes)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            ["train/", "test/"],
            "the sub-folders test, train look like splits and not like classes, but train has no class folders, only 1 im",
        ),
        (["train/cat.0.jpg", "test1/1.jpg"], "If a table names the classes, use data.source: manifest"),
        (both("val", "test"), "test, val look like splits and not like classes, but none is for training"),
        (both("train", "evaluation"), "but evaluation can be validation or test; rename it"),
        ([*both("train", "test"), *both("extra")], "but extra beside them also contains images of their classes; move extra away"),
        ([*both("train", "test"), "cats/"], "but cats beside them also contains images of their classes"),
        ([*both("train"), "test/Cats/"], "test has the class Cats, which train lacks; its classes are cats, dogs"),
        (["cats/train/", "cats/test/", "dogs/"], "test, train of cats look like splits, but dogs is arranged in another way"),
        (["cats/train/", "cats/test/", "cats/b.png", "dogs/train/"], "but cats is arranged in another way"),
        (
            [*both("."), *both("PetImages")],
            "PetImages contains folders with the names of classes beside it, cats, dogs, so it is not a class",
        ),
        (
            [*both("Plants(Augmented)/Plants(Augmented)/train", "Plants(Augmented)/Plants(Augmented)/valid"), "test/test/a.JPG"],
            "but test is arranged in another way; expected only splits such as train and test in every class, or in none. "
            "If Plants(Augmented) contains the whole data set, set data.path to it",
        ),
        (["trainA/", "trainB/", "testA/", "testB/"], "but trainA has no class folders"),  # pairs of images
    ],
)
def test_a_folder_with_several_readings_is_refused(tmp_path: Path, places: Sequence[str], message: str) -> None:
    with pytest.raises(errors.DataError) as caught:
        listings.list_folder(put(tmp_path, *places))
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert message in str(caught.value)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    root = put(
        tmp_path, *both("train/train"), "train/loose.png", "seen.jpg", "test/test/1.png", "test/test/2.png", "single_prediction/a.jpg"
    )
    for place in ("readme.txt", "train/Thumbs.db", "train/train/cats/notes.TXT", "test/names.csv", "LICENSE"):
        (root / place).write_text("")
    found = listings.list_folder(root)
    assert read(root) == [("cats", TRAIN), ("dogs", TRAIN)]
    assert found.remarks == (
        f"left out: 2 images and 1 other file (1 .csv) in {root}/test, which has no class folders",
        f"left out: 1 image in {root}/single_prediction, which is not one of the splits test, train",
        f"left out: 1 image outside the class folders, first {root}/seen.jpg",
        f"left out: 1 image outside the class folders, first {root}/train/loose.png",
    )
    assert found.ignored == {".txt": 2, ".db": 1, "without ending": 1}
    assert (
        dataset.notes(listings.read(found, cache=None))[-1] == "ignored because of their names: 4 files (2 .txt, 1 .db, 1 without ending)"
    )


def test_images_beside_the_class_folders_are_named(tmp_path: Path) -> None:
    root = put(tmp_path, *both("."), "a.jpg", "b.jpg")
    assert listings.list_folder(root).remarks == (f"left out: 2 images outside the class folders, first {root}/a.jpg",)


def test_a_copy_of_the_whole_folder_beside_the_splits_is_left_out_and_named(tmp_path: Path) -> None:
    root = put(tmp_path, *both("train", "test", "chest_xray/train", "chest_xray/test", "__MACOSX/train"))
    assert read(root) == TRAIN_AND_TEST
    assert listings.list_folder(root).remarks == (f"left out: 4 images in {root}/chest_xray, which is not one of the splits test, train",)


def test_classes_that_contain_the_same_folders_are_reported(tmp_path: Path) -> None:
    root = put(tmp_path, *both("fold_1", "fold_2"))
    assert listings.list_folder(root).classes == ("fold_1", "fold_2")
    (remark,) = listings.list_folder(root).remarks
    assert remark.startswith("the classes are fold_1, fold_2; the images of their sub-folders cats, dogs are put together. If cats, dogs")


def test_folders_that_link_to_themselves_end(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(errors.DataError, match="has no images in its 1 sub-folder"):
        listings.list_folder(tmp_path)


def test_an_archive_is_to_be_unpacked_first(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"")
    with pytest.raises(errors.DataError, match="has no sub-folders, but the archive photos.zip; unpack it first"):
        listings.list_folder(tmp_path)
    with pytest.raises(errors.DataError, match="photos.zip is an archive; unpack it, and set data.path to the folder"):
        listings.list_folder(tmp_path / "photos.zip")


@pytest.mark.parametrize(
    ("name", "role", "rest"),
    [
        ("train", TRAIN, ()),
        ("Test Set", TEST, ()),
        ("seg_train", TRAIN, ("seg",)),
        ("asl_alphabet_test", TEST, ("asl", "alphabet")),
        ("testdata", TEST, ()),
        ("train_and_test", None, ("and",)),
        ("trains", None, ("trains",)),
        ("contest", None, ("contest",)),
    ],
)
def test_a_name_stands_for_a_split_if_one_of_its_words_does(name: str, role: int | None, rest: tuple[str, ...]) -> None:
    assert folders.role_of(name) == (role, rest)


#: data sets as their archives unpack them, and the class and split of each image that a study uses
PUBLISHED = {
    "intel image classification": (
        [*both("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred/3.jpg"],
        TRAIN_AND_TEST,
    ),
    "asl alphabet": (
        [*both("asl_alphabet_train/asl_alphabet_train"), "asl_alphabet_test/asl_alphabet_test/A_test.jpg"],
        [("cats", TRAIN), ("dogs", TRAIN)],
    ),
    "fruits 360": (
        [*both("fruits-360/Training", "fruits-360/Test"), "fruits-360/test-multiple_fruits/a.jpg"],
        TRAIN_AND_TEST,
    ),
    "tiny imagenet": (
        ["train/cats/images/1.JPEG", "train/dogs/images/2.JPEG", "val/images/3.JPEG", "test/images/4.JPEG"],
        [("cats", TRAIN), ("dogs", TRAIN)],
    ),
    "chest x-ray": (
        both("chest_xray/train", "chest_xray/test", "chest_xray/chest_xray/train", "chest_xray/chest_xray/test", "__MACOSX/chest_xray"),
        TRAIN_AND_TEST,
    ),
    "imagenette": (
        both("imagenette2-160/train", "imagenette2-160/val"),
        [("cats", TRAIN), ("cats", VALIDATION), ("dogs", TRAIN), ("dogs", VALIDATION)],
    ),
    "flower photos": (["flower_photos/daisy/", "flower_photos/roses/"], [("daisy", dataset.NONE), ("roses", dataset.NONE)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_sets_are_read_as_they_are_unpacked(tmp_path: Path, name: str) -> None:
    places, expected = PUBLISHED[name]
    root = put(tmp_path, *places)
    assert read(root) == expected
    found = listings.list_folder(root)
    left_out = [place for place in places if not place.startswith("__MACOSX")]
    assert sum(int(remark.split()[2]) for remark in found.remarks if remark.startswith("left out: ")) == len(left_out) - len(expected)


def test_a_folder_that_is_gone_or_closed_to_this_user_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match=r"the folder .*/gone cannot be read \(No such file or directory\); check its permissions"):
        folders.image_files(str(tmp_path / "gone"))
