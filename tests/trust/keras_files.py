"""A small `.keras` file, made without Keras; every part of it can be changed."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

#: two classes from the mean colours of an image (32, 32, 3)
SIDE = 32


def layer(name: str, kind: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def plain_layers() -> list[dict[str, Any]]:
    return [
        layer("image", "InputLayer", batch_shape=[None, SIDE, SIDE, 3], dtype="float32"),
        layer("rescaling", "Rescaling", scale=1 / 255, offset=0.0),
        layer("global_average_pooling2d", "GlobalAveragePooling2D"),
        layer("dense", "Dense", units=2, activation="linear"),
        layer("softmax", "Softmax"),
    ]


def config(layers: list[dict[str, Any]]) -> bytes:
    whole = {"name": "classifier", "layers": [*plain_layers(), *layers], "build_input_shape": [None, SIDE, SIDE, 3]}
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": whole, "registered_name": None}).encode()


def weights(change: Callable[[h5py.File], None] = lambda _: None) -> bytes:
    written = io.BytesIO()
    with h5py.File(written, "w") as file:
        for name in ("rescaling", "global_average_pooling2d", "dense", "softmax"):
            file.create_group(f"layers/{name}/vars").attrs["name"] = name
        file.create_group("vars").attrs["name"] = "classifier"
        file["layers/dense/vars/0"] = np.array([[-9, 9], [0, 0], [9, -9]], "f4")
        file["layers/dense/vars/1"] = np.zeros(2, "f4")
        change(file)
    return written.getvalue()


def packed(
    *,
    layers: list[dict[str, Any]] | None = None,
    config: bytes | None = None,
    weights: bytes | None = None,
    extra: dict[str, bytes] | None = None,
    without: str = "",
    compression: int = zipfile.ZIP_STORED,
    mode: int = 0o600,
) -> bytes:
    members = {
        "metadata.json": b'{"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}',
        "config.json": _config(layers or []) if config is None else config,
        "model.weights.h5": _weights() if weights is None else weights,
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in [*members.items(), *(extra or {}).items()]:
            if name != without:
                member = zipfile.ZipInfo(name)
                member.external_attr, member.compress_type = mode << 16, compression
                archive.writestr(member, content)
    return written.getvalue()


_config, _weights = config, weights
