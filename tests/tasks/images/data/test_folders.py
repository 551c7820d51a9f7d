"""Folders as people unpack them: split names, wrapping folders, and counts of what is left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, folder_files, folders, in_memory, listings, manifests

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


@pytest.mark.parametrize("above", ["", "plantvillage dataset/"])
@pytest.mark.parametrize("wrapped", ["", "images/"])
@pytest.mark.parametrize(
    "outer",
    [("color", "grayscale"), ("entrainement", "test"), ("fold_1", "fold_2"), ("amazon", "webcam"), ("left", "right"), ("EuroSAT", "Bands")],
)
def test_folders_that_all_contain_the_same_folders_are_refused_with_a_way_to_each_reading(
    tmp_path: Path, above: str, wrapped: str, outer: tuple[str, str]
) -> None:
    root = put(tmp_path, *both(*(f"{above}{name}/{wrapped}".rstrip("/") for name in outer)))
    said = refusal(root)
    assert (
        f"{', '.join(sorted(outer))} all contain cats, dogs, so either may be the classes. If cats, dogs are, set data.class_pattern"
        in said
    )
    assert said.endswith("If they are splits, name them train, validation and test")
    patterns = [part.split("'")[0] for part in said.split(" to '")[1:]]
    assert listings.list_folder(root, class_pattern=patterns[0]).classes == ("cats", "dogs")
    assert (
        listings.list_folder(root, class_pattern=patterns[1]).classes == dataset.name_classes(sorted(outer), "natural", earlier=sorted)[0]
    )
    assert listings.list_folder(root, class_order="earlier").classes == tuple(sorted(outer))  # a study of an earlier version goes on


def test_images_in_folders_inside_the_classes_are_reported(tmp_path: Path) -> None:
    root = put(tmp_path, *(f"{place}/{number}.png" for place in ("Birds/jay", "Birds/owl", "Fish/cod", "Fish/eel") for number in (0, 1)))
    found = listings.list_folder(root)
    assert found.classes == ("Birds", "Fish")
    (remark,) = found.remarks
    assert remark.startswith("the images of the sub-folders of each class are put together, such as jay, owl of Birds. If these are the cl")
    patterns = [part.split("'")[0] for part in remark.split(" to '")[1:]]
    assert listings.list_folder(root, class_pattern=patterns[0]).classes == ("cod", "eel", "jay", "owl")
    groups = listings.list_folder(root, group_pattern=patterns[1]).groups
    assert groups is not None
    assert [groups.count(name) for name in sorted(set(groups))] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "name",
    ["__MACOSX", "$Recycle.Bin", "#snapshot", "@Recently-Snapshot", "Network Trash Folder", "Temporary Items", "found.000", "RECYCLER"],
)
def test_folders_of_systems_and_drives_are_no_classes(tmp_path: Path, name: str) -> None:
    root = put(tmp_path, *both("."), f"{name}/", f"cats/{name}/")
    assert read(root) == [("cats", dataset.NONE), ("dogs", dataset.NONE)]


def test_names_of_splits_in_file_names_are_not_proposed_as_classes(tmp_path: Path) -> None:
    root = put(
        tmp_path, *(f"{name}/{split}_{number}.png" for name in ("cats", "dogs") for split in ("train", "val", "test") for number in (0, 1))
    )
    assert listings.list_folder(root).remarks == ()


def test_shards_of_webdataset_are_named(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"train-00000{number}.tar").write_bytes(b"")
    assert "numbered as those of WebDataset: write a function that reads them, for data.source: python" in refusal(tmp_path)


def test_folders_that_link_to_themselves_end(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(errors.DataError, match="again is a link to .*, which contains the whole data set"):
        listings.list_folder(tmp_path)
    with pytest.raises(errors.DataError, match="has no images in its 1 sub-folder"):
        listings.list_folder(tmp_path, class_order="earlier")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("my photos.zip", "unzip '{root}/my photos.zip' -d '{root}/my photos'"),
        ("photos.ZIP", "unzip {root}/photos.ZIP -d {root}/photos"),
        ("photos.tar.gz", "mkdir {root}/photos && tar -xf {root}/photos.tar.gz -C {root}/photos"),
        ("photos.tgz", "mkdir {root}/photos && tar -xf {root}/photos.tgz -C {root}/photos"),
        ("photos.tar", "mkdir {root}/photos && tar -xf {root}/photos.tar -C {root}/photos"),
        ("photos.7z", "7z x {root}/photos.7z -o{root}/photos"),
        ("photos.rar", "unrar x {root}/photos.rar {root}/photos/"),
        ("photos.gz", "gunzip -k {root}/photos.gz"),
    ],
)
def test_an_archive_is_refused_with_the_command_that_unpacks_it(tmp_path: Path, name: str, command: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(b"")
    said = command.format(root=tmp_path)
    assert refusal(tmp_path).startswith(f"{tmp_path} has no sub-folders, but the archive {name}; unpack it with: {said};")
    assert refusal(archive) == f"{archive} is an archive; unpack it with: {said}, and set data.path to the folder with the classes"
    with pytest.raises(errors.DataError) as caught:
        manifests.list_manifest(study.ManifestData(source="manifest", path=archive))
    assert str(caught.value) == f"{archive} is an archive; unpack it with: {said}, and set data.path to the table"
    with pytest.raises(errors.DataError) as caught:
        in_memory.read_npz(study.NpzData(source="npz", path=archive))
    assert str(caught.value) == f"{archive} is an archive; unpack it with: {said}, and set data.path to the .npz file in it"


def test_several_archives_are_counted(tmp_path: Path) -> None:
    for name in ("cats.zip", "dogs.zip"):
        (tmp_path / name).write_bytes(b"")
    said = f"but 2 archives, first cats.zip; unpack each with: unzip {tmp_path}/cats.zip -d {tmp_path}/cats;"
    assert said in refusal(tmp_path)


def test_arrays_in_a_file_named_like_an_archive_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array([0, 1, 0, 1]))
    (tmp_path / "a.npz").rename(tmp_path / "a.zip")
    assert len(in_memory.read_npz(study.NpzData(source="npz", path=tmp_path / "a.zip"))) == 4


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(errors.DataError) as caught:
        listings.list_folder(path, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "target", "message"),
    [
        ("cats/more", "../dogs", "cats/more and {root}/dogs are the same folder"),
        ("cats/a/b", "../../dogs/x", "cats/a/b and {root}/dogs/x are the same folder"),
        ("kittens", "cats", "cats and {root}/kittens are the same folder"),
        ("cats/up", "..", "cats/up is a link to {root}, which contains the whole data set"),
        ("cats/disk", "/", "cats/disk is a link to /, which contains the whole data set"),
        ("cats/x/y", "../..", "cats/x/y is a link to {root}, which contains the whole data set"),
    ],
)
def test_a_link_that_would_give_images_two_classes_is_refused(tmp_path: Path, place: str, target: str, message: str) -> None:
    put(tmp_path, "cats/a.png", "dogs/a.png", "dogs/x/b.png")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(target, target_is_directory=True)
    said = refusal(tmp_path)
    assert said.startswith(f"{tmp_path}/" + message.format(root=tmp_path))
    assert said.endswith("; remove the link")


def test_a_split_that_links_to_another_one_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/cats/a.png", "train/dogs/a.png")
    (tmp_path / "test").symlink_to("train", target_is_directory=True)
    assert f"{tmp_path}/test/cats and {tmp_path}/train/cats are the same folder" in refusal(tmp_path)


def test_links_within_a_class_and_to_other_disks_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "disk", "cats/0.png", "cats/1.png")
    put(tmp_path / "data", "cats/a/0.png", "dogs/a.png")
    (tmp_path / "data" / "cats" / "b").symlink_to("a", target_is_directory=True)
    (tmp_path / "data" / "cats" / "disk").symlink_to(tmp_path / "disk" / "cats", target_is_directory=True)
    assert [name for name, _ in read(tmp_path / "data")] == ["cats", "cats", "cats", "dogs"]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("cats.{n}.jpg", "dogs.{n}.jpg"), "cats 2, dogs 2"),
        (("cat_{n}.png", "dog_{n}.png"), "cat 2, dog 2"),
        (("cat ({n}).jpg", "big dog ({n}).jpg"), "big dog 2, cat 2"),
        (("cat{n}.jpg", "dog{n}.jpg"), "cat 2, dog 2"),
        (("Abyssinian_{n}.jpg", "american_bulldog_{n}.jpg"), "Abyssinian 2, american_bulldog 2"),
        (("00{n}_cat.jpg", "00{n}-dog.jpg"), "cat 2, dog 2"),
        (("n02085620_1{n}.JPEG", "n02085782_1{n}.JPEG"), "n02085620 2, n02085782 2"),
        (("Löwe_{n}.jpg", "Bär_{n}.jpg"), "Bär 2, Löwe 2"),
        (("cat_{n}_2.jpg", "dog_{n}_3.jpg"), "cat 2, dog 2"),
    ],
)
def test_classes_in_file_names_are_proposed_and_can_be_read(tmp_path: Path, names: tuple[str, ...], classes: str) -> None:
    put(tmp_path, *(name.format(n=number) for name in names for number in (0, 1)))
    said = refusal(tmp_path)
    assert f"If the names of the files contain the classes ({classes}), set data.class_pattern" in said
    pattern = said.split(" to '")[1].split("'.")[0]
    found = listings.list_folder(tmp_path, class_pattern=pattern)
    counted = sorted(f"{name} {found.labels.count(label)}" for label, name in enumerate(found.classes))
    assert ", ".join(counted) == classes


def test_names_without_a_class_give_an_example_of_a_pattern(tmp_path: Path) -> None:
    put(tmp_path, *(f"IMG_{number}.jpg" for number in range(4)))
    said = refusal(tmp_path)
    assert "If the name of each file contains its class, set data.class_pattern, such as (?:^|/)([A-Za-z]+)[._-]" in said
    assert "If a table names the classes, use data.source: manifest" in said


@pytest.mark.parametrize("more", [(), ("test/5.png",)])
def test_file_names_with_classes_inside_a_split_are_proposed(tmp_path: Path, more: tuple[str, ...]) -> None:
    put(tmp_path, "train/cat_0.png", "train/cat_1.png", "train/dog_0.png", "train/dog_1.png", *more)
    assert "the names of the files contain the classes (cat 2, dog 2)" in refusal(tmp_path)


def test_a_pattern_finds_classes_in_splits_and_sub_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/cat_0.png", "train/b/dog_0.png", "test/cat_1.png", "test/dog_1.png", "unlabeled/7.png", "cat_9.png")
    found = listings.list_folder(tmp_path, class_pattern=r"(?:^|/)([a-z]+)_\d")
    assert found.classes == ("cat", "dog")
    assert found.official is not None
    assert list(zip(found.labels, found.official, strict=True)) == [(0, TEST), (0, TRAIN), (1, TEST), (1, TRAIN)]
    assert [line.split(" in ")[0] for line in found.remarks] == [
        "left out: 1 image",
        f"left out: 1 image beside the splits test, train, unlabeled, first {tmp_path}/cat_9.png",
    ]


def test_the_texts_of_several_parentheses_are_one_name(tmp_path: Path) -> None:
    put(tmp_path, "red/apple_0.png", "red/pear_0.png", "green/pear_0.png")
    found = listings.list_folder(tmp_path, class_pattern=r"^(\w+)/([a-z]+)_")
    assert found.classes == ("green/pear", "red/apple", "red/pear")
    either = listings.list_folder(tmp_path, class_pattern="(apple)|(pear)")
    assert either.classes == ("apple", "pear")


@pytest.mark.parametrize("pattern", [r"(?:^|/)([a-z]+)_\d", r"_?([a-z]*)_\d"])
def test_an_image_without_a_class_is_refused_by_name(tmp_path: Path, pattern: str) -> None:
    put(tmp_path, "cat_0.png", "dog_0.png", "_7.png")
    said = f"{tmp_path}: data.class_pattern {pattern} does not match 1 path of 3, first _7.png; expected a match in the path of every image"
    assert refusal(tmp_path, class_pattern=pattern) == f"{said}; leave out images without a class with data.ignore, or correct the pattern"


@pytest.mark.parametrize(
    "places",
    [
        ("images/cat_0.png", "annotations/trimaps/cat_0.png"),
        ("images/cat_0.png", "masks/cat_0.png"),
        ("JPEGImages/a.png", "SegmentationClass/a.png"),
        ("train/images/a.png", "train/labels/a.png", "valid/images/b.png", "valid/labels/b.png"),
    ],
)
def test_images_beside_their_annotations_are_no_classes(tmp_path: Path, places: tuple[str, ...]) -> None:
    said = refusal(put(tmp_path, *places))
    assert "look like images and their annotations, as for object detection, and not like classes" in said
    assert "If these are the classes, give them other names" in said


def test_a_folder_of_images_with_the_classes_is_named(tmp_path: Path) -> None:
    put(tmp_path, "images/cats/a.png", "images/dogs/a.png", "labels/cats/a.png")
    assert f"If images contains the classes, set data.path to {tmp_path}/images" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.csv", "It is a table of images: write a study file with data.source: manifest and data.path: {path}"),
        ("a.npz", "It holds arrays: write a study file with data.source: npz and data.path: {path}"),
        ("data.yaml", "A settings file of another program is not read: set data.path to the folder of images that it names"),
        ("a.JPG", "It is one image: set data.path to the folder above the folders of the classes"),
        ("a.tfrecord", "This format is not read: convert it"),
        ("a.txt", "Use data.source: manifest for a table of paths and labels, or npz for arrays"),
    ],
)
def test_a_file_in_place_of_a_folder_is_refused_with_what_to_do(tmp_path: Path, name: str, cure: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert cure.format(path=tmp_path / name) in refusal(tmp_path / name)


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
        folder_files.image_files(str(tmp_path / "gone"))


@pytest.mark.parametrize("place", ["dogs", "cats/disk"])
def test_a_link_to_a_folder_that_is_gone_is_refused(tmp_path: Path, place: str) -> None:
    put(tmp_path, "cats/a.png", "birds/a.png")
    (tmp_path / place).symlink_to("/mnt/none/dogs")
    said = f"{tmp_path}/{place} is a link to /mnt/none/dogs, which does not exist; connect its disk, or remove the link"
    assert refusal(tmp_path) == said


def test_a_broken_link_to_a_file_that_is_no_image_is_ignored(tmp_path: Path) -> None:
    put(tmp_path, "cats/a.png", "birds/a.png")
    (tmp_path / "cats" / "notes.txt").symlink_to("/mnt/none/notes.txt")
    assert listings.list_folder(tmp_path).ignored == {".txt": 1}


def test_archives_beside_and_inside_the_classes_are_named(tmp_path: Path) -> None:
    put(tmp_path, "cats/a.png", "dogs/a.png")
    (tmp_path / "birds.zip").write_bytes(b"x")
    said = f"not read: 1 archive, first {tmp_path}/birds.zip; unpack it with: unzip {tmp_path}/birds.zip -d {tmp_path}/birds"
    assert listings.list_folder(tmp_path).remarks == (said,)
    (tmp_path / "dogs" / "a.png").unlink()
    (tmp_path / "dogs" / "more.tar.gz").write_bytes(b"x")
    assert "no images in the sub-folder dogs, but other files (1 .gz)" in refusal(tmp_path)
    assert refusal(tmp_path).endswith(said.replace("1 archive", "2 archives"))


def test_images_beside_the_only_class_are_named(tmp_path: Path) -> None:
    put(tmp_path, "cats/a.png", "dog_1.png")
    assert refusal(tmp_path).endswith(f"left out: 1 image outside the class folders, first {tmp_path}/dog_1.png")


def test_sub_folders_whose_files_have_other_classes_in_their_names_are_named(tmp_path: Path) -> None:
    put(tmp_path, *(f"part{part}/{name}.{number}.jpg" for part in (1, 2) for name in ("cat", "dog") for number in (0, 1)))
    (line,) = listings.list_folder(tmp_path).remarks
    assert line.startswith(
        "the classes are part1, part2, by the sub-folders; each contains files of cat, dog, by their names. If these are"
    )
    pattern = line.split(" to '")[1].removesuffix("'")
    assert listings.list_folder(tmp_path, class_pattern=pattern).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "names", [("IMG_{n}.jpg", "DSC_{n}.jpg"), ("{n}.jpg", "1{n}.jpg"), ("a_{n}.jpg", "b_{n}.jpg"), ("7_{n}.jpg", "8_{n}.jpg")]
)
def test_names_of_cameras_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path, *(f"{folder}/{name.format(n=number)}" for folder in ("cats", "dogs") for name in names for number in (0, 1)))
    assert listings.list_folder(tmp_path).remarks == ()


def test_a_few_other_files_do_not_hide_classes_in_file_names(tmp_path: Path) -> None:
    put(tmp_path, "cover.png", *(f"{name}.{number}.png" for name in ("cats", "dogs") for number in range(20)))
    said = refusal(tmp_path)
    assert "If the names of the files contain the classes (cats 20, dogs 20), set data.class_pattern" in said
    pattern = said.split(" to '")[1].split("'.")[0]
    assert "does not match 1 path of 41, first cover.png" in refusal(tmp_path, class_pattern=pattern)


def test_a_folder_whose_labels_are_in_a_table_names_the_table(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "images" / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(path)
    (tmp_path / "labels.csv").write_text("filename,class\n0.png,a\n")
    with pytest.raises(errors.DataError, match="has only one class, images; .* set data.path to it. .*labels.csv: if it has"):
        listings.list_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "is_noted"),
    [(("images_1", "annotations_1"), True), (("images", "photos"), True), (("images", "cats"), False), (("label", "box"), False)],
)
def test_parts_of_a_data_set_that_are_taken_for_classes_are_noted(tmp_path: Path, names: tuple[str, str], is_noted: bool) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        Image.fromarray(noise(len(name))).save(tmp_path / name / "0.png")
    (tmp_path / "labels.csv").write_text("path,label\n")
    said = listings.list_folder(tmp_path).remarks
    assert ["usual names of parts of a data set" in line for line in said] == [True, False] if is_noted else [False]
    assert "\n".join(said).count("data.source: manifest") == 1


@pytest.mark.parametrize(
    ("places", "ignore", "classes", "num_images", "names"),
    [
        (["a/0.png", "b/0.png", "unsorted/0.png", "unsorted/1.png"], ("unsorted",), ("a", "b"), 2, "unsorted"),
        (["a/0.png", "b/0.png", "old_a/0.png", "old_b/0.png"], ("old_*",), ("a", "b"), 2, "old_a, old_b"),
        (["a/0.png", "a/rejected/1.png", "b/0.png", "b/rejected/1.png"], ("rejected",), ("a", "b"), 2, "a/rejected, b/rejected"),
        (["a/0.png", "a/rejected/1.png", "b/0.png", "b/rejected/1.png"], ("a/rejected/",), ("a", "b"), 3, "a/rejected"),
        (["a/0.png", "a/0_mask.png", "b/0.png", "b/0_mask.png"], ("*_mask.png",), ("a", "b"), 2, "a/0_mask.png, b/0_mask.png"),
        # a refusal of the layout is cured
        (["daisy/0.png", "rose/0.png", "flowers/daisy/0.png", "flowers/rose/0.png"], ("flowers",), ("daisy", "rose"), 2, "flowers"),
        (["train/a/0.png", "train/b/0.png", "test/a/1.png", "test/c/1.png"], ("test/c",), ("a", "b"), 3, "test/c"),
        (["a/0.png", "b/0.png", "L\xf6we/0.png"], ("Lo\u0308we",), ("a", "b"), 2, "L\xf6we"),
    ],
)
def test_folders_and_files_are_left_out_by_name_pattern_or_path(
    tmp_path: Path, places: list[str], ignore: tuple[str, ...], classes: tuple[str, ...], num_images: int, names: str
) -> None:
    put(tmp_path, *places)
    found = listings.list_folder(tmp_path, ignore=ignore)
    assert (found.classes, len(found.paths)) == (classes, num_images)
    assert f"left out by data.ignore: {names}" in found.remarks


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/0.png")
    with pytest.raises(errors.DataError, match="data.ignore has unsortd, which matches no folder and no file of .*; correct it"):
        listings.list_folder(tmp_path, ignore=("unsortd",))
    assert len(folder_files.image_files(str(tmp_path))[0]) == 2


def test_classes_in_file_names_are_read_without_what_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "cat_0.png", "dog_0.png", "cat_1.png", "dog_1.png", "cover.png", "old/cat_2.png", "unknown_3.png")
    found = listings.list_folder(tmp_path, class_pattern=r"([a-z]+)_\d", ignore=("cover.*", "old", "unknown_*"))
    assert (found.classes, len(found.paths)) == (("cat", "dog"), 4)
    assert found.remarks == ("left out by data.ignore: cover.png, old, unknown_3.png",)


def test_a_proposed_pattern_is_about_the_files_that_are_read(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}_{number}.png" for name in ("cat", "dog", "cow") for number in range(2)))
    said = refusal(tmp_path, ignore=("cow_*",))
    assert "contain the classes (cat 2, dog 2), set data.class_pattern" in said
    assert said.endswith("; left out by data.ignore: cow_0.png, cow_1.png")


def test_a_link_that_is_left_out_gives_no_image_two_classes(tmp_path: Path) -> None:
    put(tmp_path, "cats/a.png", "dogs/a.png")
    (tmp_path / "dogs" / "cats").symlink_to("../cats", target_is_directory=True)
    (tmp_path / "birds").symlink_to("/mnt/none/birds")
    assert len(listings.list_folder(tmp_path, ignore=("dogs/cats", "birds")).paths) == 2


@pytest.mark.parametrize("places", [("0.png", "1.png"), ("images/0.png", "images/1.png"), ("images/0.png", "labels/0.png")])
def test_a_refusal_names_a_table_once(tmp_path: Path, places: tuple[str, ...]) -> None:
    put(tmp_path, *places)
    assert refusal(tmp_path).count("data.source: manifest") == 1
    (tmp_path / "labels.csv").write_text("path,label\n")
    said = refusal(tmp_path)
    assert said.count("data.source: manifest") == 1
    assert f"{tmp_path} has the table labels.csv: if it has the labels, use data.source: manifest" in said


@pytest.mark.parametrize(
    ("ending", "wanted"),
    [
        ("", "! -name '*.*'"),
        (".jpg_large", "-name '*.jpg_large'"),
        (".jpg?w=100", "-name '*.jpg?w=100'"),
        (".download", "-name '*.download'"),
    ],
)
def test_images_with_other_names_are_named_with_the_command_that_renames_them(tmp_path: Path, ending: str, wanted: str) -> None:
    for place in put(tmp_path, *both("."), "cats/b.png", "dogs/b.png").glob("*/b.png"):
        place.rename(place.with_name(f"b{ending}"))
    (tmp_path / "cats" / "README.txt").write_text("cats")
    (note,) = (one for one in listings.list_folder(tmp_path).remarks if one.startswith("not read"))
    assert f"2 images, first {tmp_path}/cats/b{ending}; let their names end in .jpg" in note
    assert note.endswith(f"find {tmp_path} -type f {wanted} -exec mv {{}} {{}}.jpg ';'")


def test_a_folder_of_images_without_endings_is_refused_with_the_command(tmp_path: Path) -> None:
    for place in put(tmp_path, *both(".")).glob("*/a.png"):
        place.rename(place.with_suffix(""))
    with pytest.raises(errors.DataError, match=r"other files \(2 without ending\); .*: 2 images, .*-exec mv \{\} \{\}.jpg ';'$"):
        listings.list_folder(tmp_path)


def test_no_command_is_proposed_that_would_rename_other_files(tmp_path: Path) -> None:
    put(tmp_path, *both(".")).joinpath("cats", "a.png").rename(tmp_path / "cats" / "b")
    put(tmp_path, "cats/").joinpath("cats", "LICENSE").write_text("yours")
    (note,) = (one for one in listings.list_folder(tmp_path).remarks if one.startswith("not read"))
    assert note.endswith(f"1 image, first {tmp_path}/cats/b; let their names end in .jpg (tuner finds the format in the file)")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dataset_dict.json", "datasets.load_from_disk(FOLDER)['train'].to_parquet('train.parquet')"),
        ("data-00000-of-00001.arrow", "datasets.load_from_disk(FOLDER).to_parquet('images.parquet')"),
        ("tf_flowers-train.tfrecord-00000-of-00002", "use data.source: tfds with its name"),
        ("train.tfrecords", "use data.source: tfds with its name"),
        ("train-images-idx3-ubyte", "use data: {source: keras, name: mnist}"),
        ("data_batch_1", "use data: {source: keras, name: cifar10}"),
        ("images.npz", "set data.source: npz and data.path to the file"),
        ("a/train.h5", "write a function for data.source: python"),
    ],
)
def test_a_data_set_that_another_program_wrote_is_refused_with_its_source(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0" * 20)
    with pytest.raises(errors.DataError) as raised:
        listings.list_folder(tmp_path)
    assert said in str(raised.value)


def test_a_split_whose_labels_are_in_a_table_inside_names_the_table(tmp_path: Path) -> None:
    put(tmp_path, "train/1_jpg.rf.a.png", "train/2_jpg.rf.b.png", "valid/1_jpg.rf.c.png")
    (tmp_path / "train" / "_classes.csv").write_text("filename, cat, dog\n")
    with pytest.raises(
        errors.DataError, match=f"{tmp_path}/train has the table _classes.csv: if it has the labels, use data.source: manifest"
    ):
        listings.list_folder(tmp_path)
