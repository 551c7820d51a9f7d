import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.trust import keras_files
from tuner import errors
from tuner.trust import keras_file


def reasons(tmp_path: Path, **parts: Any) -> list[str]:
    path = tmp_path / "model.keras"
    path.write_bytes(keras_files.packed(**parts))
    return keras_file.problems(path)


def test_a_plain_model_may_be_loaded(tmp_path: Path) -> None:
    assert reasons(tmp_path) == []
    keras_file.require_safe(tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {}}}},
            "'Lambda'",
        ),
        ({"module": "builtins", "class_name": "eval", "config": {}}, "'eval' of builtins"),
        ({"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}, "'system'"),
        ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp/x"}}, "'TFSMLayer'"),
        ({"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}}, "'TorchModuleWrapper'"),
        ({"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}}, "'StringLookup'"),
        ({"module": "mine", "class_name": "Dense", "config": {}}, "'Dense' of mine"),
        ({"module": None, "class_name": "Dense", "config": {}}, "no module"),
        ({"module": "keras.layers", "class_name": "Dense", "config": {}, "registered_name": "mine>Dense"}, "'mine>Dense'"),
        ({"module": "keras.layers", "class_name": ["Dense"], "config": {}}, "class name is not a text"),
        ({"class_name": "__typespec__", "config": []}, "'__typespec__'"),
        ({"class_name": "__lambda__", "config": {"value": "…"}}, "'__lambda__'"),
        ({"module": "keras.layers", "class_name": "Dense", "config": {"units": 60_000}}, "none of its weights has this width"),
        ({"module": "keras.layers", "class_name": "UpSampling2D", "config": {"size": [10**9, 1]}}, "sets size to 1,000,000,000"),
    ],
)
def test_a_layer_that_could_do_more_than_compute_is_refused_at_any_depth(tmp_path: Path, layer: dict[str, Any], said: str) -> None:
    for hidden in (layer, {"module": "keras.layers", "class_name": "Activation", "config": {"activation": [{"deep": layer}]}}):
        (reason, *_) = reasons(tmp_path, layers=[hidden])
        assert said in reason


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.layers", "Dense"),
        ("keras.initializers", "HeNormal"),
        ("keras.src.models.functional", "Functional"),
        ("keras.src.ops.numpy", "Multiply"),  # MobileNetV3
        ("keras.src.applications.convnext", "LayerScale"),
        ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer"),
    ],
)
def test_the_layers_of_keras_own_networks_may_be_loaded(module: str, name: str) -> None:
    assert keras_file.refusal({"module": module, "class_name": name, "config": {}, "registered_name": name}) == ""


def test_every_reason_is_reported(tmp_path: Path) -> None:
    evil: list[dict[str, Any]] = [
        {"module": "keras.layers", "class_name": name, "config": {}} for name in ("Lambda", "TFSMLayer", "Lambda")
    ]
    assert len(reasons(tmp_path, layers=evil)) == 2
    with pytest.raises(errors.RequestError, match=r"Lambda.*; .*TFSMLayer"):
        keras_file.require_safe(tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"../up.py": b"x"}, "'../up.py'"),
        ({"/etc/cron.d/x": b"x"}, "'/etc/cron.d/x'"),
        ({"payload.pkl": b"\x80\x04."}, "'payload.pkl'"),
        ({"assets/vocabulary.txt": b"x"}, "'assets/vocabulary.txt'"),
        ({"model.weights.npz": b"x"}, "'model.weights.npz'"),
    ],
)
def test_an_unknown_member_is_refused(tmp_path: Path, extra: dict[str, bytes], said: str) -> None:
    (reason,) = reasons(tmp_path, extra=extra)
    assert said in reason


def test_a_member_that_is_missing_linked_compressed_or_duplicate_is_refused(tmp_path: Path) -> None:
    assert reasons(tmp_path, without="config.json") == ["it lacks config.json"]
    assert "compressed" in reasons(tmp_path, compression=zipfile.ZIP_DEFLATED)[0]
    assert "link" in reasons(tmp_path, mode=0o120777)[0]
    with pytest.warns(UserWarning, match="Duplicate name"):
        assert "twice" in reasons(tmp_path, extra={"config.json": b"{}"})[0]


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b"{}", b'{"class_name": "a", "class_name": "b"}', b"[" * 100_000, b"\xff"])
def test_an_invalid_configuration_is_refused(tmp_path: Path, config: bytes) -> None:
    assert reasons(tmp_path, config=config)


def linked(file: h5py.File) -> None:
    file["layers/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


def soft(file: h5py.File) -> None:
    file["layers/soft"] = h5py.SoftLink("/layers/dense/vars/0")


def ring(file: h5py.File) -> None:
    file["layers/ring"] = file["layers"]


def external(file: h5py.File) -> None:
    file.create_dataset("layers/external", shape=(10,), dtype="u1", external=[("/etc/passwd", 0, 10)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(10,), dtype="u1")
    layout[:] = h5py.VirtualSource("/etc/passwd.h5", "data", shape=(10,))
    file.create_virtual_dataset("layers/virtual", layout)


def bomb(file: h5py.File) -> None:
    file.create_dataset("layers/bomb", data=np.zeros(10**6, "f4"), compression="gzip")


def hollow(file: h5py.File) -> None:
    file.create_dataset("layers/hollow", shape=(10**9,), dtype="f4", chunks=(1024,))


def objects(file: h5py.File) -> None:
    file.create_dataset("layers/objects", data=["a"], dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (linked, "is a link|are a link"),
        (soft, "are a link"),
        (ring, "twice"),
        (external, "are in another file"),
        (virtual, "are in another file"),
        (bomb, "are compressed"),
        (hollow, "4,000,0"),
        (objects, "are not numbers"),
    ],
)
def test_weights_that_read_other_files_or_expand_are_refused(tmp_path: Path, change: Callable[[h5py.File], None], said: str) -> None:
    found = "; ".join(reasons(tmp_path, weights=keras_files.weights(change)))
    assert any(words in found for words in said.split("|"))


def test_a_file_that_is_not_a_complete_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    whole = keras_files.packed()
    for content in (b"", b"hello", b"\x80\x04cos\nsystem\n.", whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert keras_file.problems(path)
    assert keras_file.problems(tmp_path / "nowhere")


def test_an_archive_with_a_false_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(keras_files.packed())
    place = content.rindex(b"model.weights.h5") - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 24 : place + 28] = struct.pack("<I", 2**31)
    (tmp_path / "model.keras").write_bytes(content)
    assert "larger than the whole file" in keras_file.problems(tmp_path / "model.keras")[0]


def test_the_unchanged_model_of_these_tests_is_accepted() -> None:
    with zipfile.ZipFile(io.BytesIO(keras_files.packed())) as archive:
        assert json.loads(archive.read("config.json"))["class_name"] == "Sequential"


def packed_with(*names: str) -> bytes:
    """Return an archive with empty members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return content.getvalue()


def hdf5(**attributes: str) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update(attributes)
    return content.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.pth", packed_with("x/data.pkl"), "the ending .pth of PyTorch"),
        ("X.PT", b"", "the ending .pt of PyTorch"),
        ("x.safetensors", b"", "the ending .safetensors of safetensors"),
        ("x.onnx", b"", "the ending .onnx of ONNX"),
        ("x.npz", packed_with("a.npy"), "the ending .npz of NumPy"),
        ("x.pkl", b"", "the ending .pkl of pickle"),
        ("x.weights.h5", None, "is not a file"),
        ("x.weights.h5", b"", "is empty"),
        ("x.weights.h5", LFS, "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull"),
        ("x.weights.h5", b"\n<!DOCTYPE html>", "a web page"),
        ("x.h5", b"\x80\x02.", "a pickle, for example weights of PyTorch"),
        ("x.h5", packed_with("config.json", "model.weights.h5"), "a zip archive; rename it to end in .keras"),
        ("x.keras", hdf5(), "HDF5; rename it to end in .h5"),
        ("x.keras", packed_with("x/data.pkl"), "an archive without config.json and model.weights.h5"),
        ("x.keras", packed_with("config.json", "model.weights.h5")[:40], "cut off or damaged"),
        ("x.keras", packed_with("config.json", "model.weights.h5").replace(b"PK\x01\x02", b"XXXX"), "cut off or damaged"),
    ],
)
def test_weights_that_keras_cannot_load_are_refused_with_the_formats_that_load(
    name: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError) as caught:
        keras_file.require_weights(tmp_path / name)
    message = str(caught.value)
    assert f"model.weights is {tmp_path / name}, " in message
    assert said in message
    assert "NAME.weights.h5, or a whole model NAME.keras or NAME.h5" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.weights.h5", hdf5()), ("x.h5", hdf5()), ("x.hdf5", hdf5()), ("x.keras", packed_with("config.json", "model.weights.h5"))],
)
def test_files_in_a_format_of_keras_pass(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    keras_file.require_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.weights.h5", hdf5(), "holds weights without a network; name the network in model.backbone"),
        ("x.h5", hdf5(), "holds weights without a network; name the network in model.backbone"),
        ("x.h5", hdf5(model_config="{}")[:600], "cut off or damaged"),
        ("x.keras", LFS, "a pointer of Git LFS"),
        ("x.keras", None, "is not a file"),
    ],
)
def test_a_file_without_a_network_is_no_backbone(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError, match=said) as caught:
        keras_file.require_model(tmp_path / name)
    assert f"model.backbone is {tmp_path / name}, " in str(caught.value)


def test_models_that_keras_saved_are_backbones(tmp_path: Path) -> None:
    for name, content in (("x.h5", hdf5(model_config="{}")), ("x.keras", packed_with("config.json", "model.weights.h5"))):
        (tmp_path / name).write_bytes(content)
        keras_file.require_model(tmp_path / name)
