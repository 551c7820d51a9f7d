"""Keras files: what a file of weights or a model holds, and reasons not to load a `.keras` file, found without loading it.

A configuration may name layers that only compute, and plain values. Everything is refused that can run code, read other files or use the
network: Lambda, wrappers of functions and of other frameworks, nested saved models, look-ups with vocabularies, and registered classes.
"""

import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py

from tuner.errors import DataError, RequestError

_LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveMaxPooling1D AdaptiveMaxPooling2D Add
    AlphaDropout Attention Average AveragePooling1D AveragePooling2D BatchNormalization CenterCrop Concatenate Conv1D Conv1DTranspose
    Conv2D Conv2DTranspose Cropping1D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D GlobalMaxPooling2D
    GroupNormalization Identity InputLayer LayerNormalization LeakyReLU Maximum MaxPooling1D MaxPooling2D Minimum MultiHeadAttention
    Multiply Normalization PReLU Permute RMSNormalization ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D
    Softmax SpatialDropout1D SpatialDropout2D SpectralNormalization Subtract UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D
    ZeroPadding2D
"""
#: layers of models for sequences, texts and volumes; those that contain other layers have them in their configuration, which is checked
_LAYERS_OF_SEQUENCES = """
    AdditiveAttention AveragePooling3D Bidirectional Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D Cropping3D Embedding GRU GRUCell
    GlobalAveragePooling3D GlobalMaxPooling3D GroupQueryAttention LSTM LSTMCell Masking MaxPooling3D RNN SimpleRNN SimpleRNNCell
    SpatialDropout3D StackedRNNCells TimeDistributed UpSampling3D ZeroPadding3D
"""
_INITIALIZERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal LecunUniform Ones Orthogonal
    OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
#: arithmetic between layers, which Keras stores as operations
_OPERATIONS = {
    "keras.src.ops.numpy": "Absolute Add Clip Concatenate Divide ExpandDims Exp Log Maximum Mean Minimum Moveaxis Multiply Negative "
    "Power Reshape Sqrt Square Squeeze Subtract Sum Transpose TrueDivide",
    "keras.src.ops.nn": "Elu Gelu HardSigmoid HardSilu HardSwish LeakyRelu LogSoftmax Relu Relu6 Sigmoid Silu Softmax Softplus Softsign",
}
#: module and name of each allowed class
ALLOWED = frozenset(
    [("keras.layers", name) for name in (*_LAYERS.split(), *_LAYERS_OF_SEQUENCES.split())]
    + [("keras.initializers", name) for name in _INITIALIZERS.split()]
    + [("keras.regularizers", name) for name in ("L1", "L2", "L1L2", "OrthogonalRegularizer")]
    + [("keras.constraints", name) for name in ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm")]
    + [("keras", name) for name in ("DTypePolicy", "Functional", "Model", "Sequential")]
    + [("keras.src.models.functional", "Functional"), ("keras.src.models.sequential", "Sequential")]
    + [("keras.src.applications.convnext", "LayerScale"), ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer")]
    + [(module, name) for module, names in _OPERATIONS.items() for name in names.split()]
)
#: class name of a tensor between two layers
TENSOR = "__keras_tensor__"


_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_MEMBERS = frozenset({_CONFIG, _WEIGHTS, _METADATA})
_MAX_CONFIG_BYTES = 32 * 1024**2
#: largest number in a configuration, such as sizes, units and paddings; seeds and ids of shared objects may be larger
_MAX_NUMBER = 65_536
_ANY_NUMBER = frozenset({"seed", "shared_object_id"})
#: keys for the width of a layer, which must also occur in the weights
_WIDTHS = frozenset({"units", "filters"})
_MAX_DEPTH = 100
_MAX_OBJECTS = 200_000
#: errors of damaged archives and weights
_DAMAGE = (
    zipfile.BadZipFile, OSError, ValueError, KeyError, RuntimeError, EOFError, NotImplementedError, RecursionError, TypeError, MemoryError,
)  # fmt: skip


#: the formats that load, for messages
LOADABLE = "weights that Keras saved: NAME.weights.h5, or a whole model NAME.keras or NAME.h5 with the layers of the backbone"
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
#: starts of files, with what begins like that
_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull"),
    (b"<", "a web page or XML; download the file itself"),
    (b"GGUF", "weights in GGUF"),
    (b"\x80", "a pickle, for example weights of PyTorch"),
    (b"\x93NUMPY", "one array of NumPy"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
)
#: endings of files of other libraries, with their names
_OTHERS = {
    "PyTorch": (".pth", ".pt", ".bin", ".ckpt"),
    "safetensors": (".safetensors",),
    "ONNX": (".onnx",),
    "TensorFlow Lite": (".tflite", ".lite"),
    "a TensorFlow graph": (".pb", ".pbtxt"),
    "a TensorFlow checkpoint": (".index", ".data-00000-of-00001", ".tf"),
    "NumPy": (".npz", ".npy"),
    "pickle": (".pkl", ".pickle"),
    "JAX": (".msgpack",),
}


def require_weights(path: Path) -> None:
    """Refuse a file that Keras cannot load weights from, by its name and its first bytes.

    Raises:
        DataError: it does not exist, or has another format; the message names the formats that load.
    """
    reason = foreign_format(path.name) or _missing(path) or _wrong_content(path, whole_model=False)
    if reason:
        raise DataError(f"model.weights is {path}, {reason}; expected imagenet, none, or {LOADABLE}")


def require_model(path: Path) -> None:
    """Refuse a file that Keras cannot load a model from, by its name and its first bytes.

    Raises:
        DataError: it does not exist, holds weights only, or has another format.
    """
    reason = _missing(path) or _wrong_content(path, whole_model=True)
    if path.name.endswith(".weights.h5") and not _missing(path):
        reason = "which holds weights without a network; name the network in model.backbone, and this file in model.weights"
    if reason:
        raise DataError(f"model.backbone is {path}, {reason}; expected a model saved by Keras (.keras)")


def foreign_format(name: str) -> str:
    """Return what is wrong with a name that has the ending of another library, such as `.pth`; "" for every other name."""
    for library, endings in _OTHERS.items():
        for ending in endings:
            if name.lower().endswith(ending):
                return (
                    f"which has the ending {ending} of {library}. tuner does not convert it: load it in Keras, and call save_weights there"
                )
    return ""


def _missing(path: Path) -> str:
    if path.is_dir():
        return "which is a folder"
    return "" if path.is_file() else "which is not a file (a relative path starts at the folder of the study file)"


def _wrong_content(path: Path, *, whole_model: bool) -> str:
    """Return what is wrong with the content of a file, by its ending; "" if nothing is."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        return f"which cannot be read ({error.strerror})"
    is_zip = path.name.endswith(".keras")
    if start.startswith(_ZIP if is_zip else _HDF5):
        return _wrong_members(path) if is_zip else _wrong_groups(path) if whole_model else ""
    if not start:
        return "which is empty"
    if start.startswith((_ZIP, _HDF5)):
        content, ending = ("HDF5", ".h5") if is_zip else ("a zip archive", ".keras if Keras saved it")
        return f"whose content is {content}; rename it to end in {ending}"
    content = next((content for begin, content in _STARTS if start.lstrip().startswith(begin)), "in no format of Keras, or damaged")
    return f"whose content is {content}"


def _wrong_members(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            missing = {_CONFIG, _WEIGHTS} - set(archive.namelist())
    except _DAMAGE:
        return "which is cut off or damaged; copy it again"
    return f"which is an archive without {' and '.join(sorted(missing))}" if missing else ""


def _wrong_groups(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                return ""
    except _DAMAGE:
        return "which is cut off or damaged; copy it again"
    return "which holds weights without a network; name the network in model.backbone, and this file in model.weights"


def require_safe(path: Path) -> None:
    """Refuse a file that could do more than compute when Keras loads it.

    Raises:
        RequestError: the file is unsafe or damaged; the message lists the reasons.
    """
    found = problems(path)
    if found:
        cure = "If you made the file, load it with Keras; otherwise check where it comes from"
        raise RequestError(f"{path} is not loaded: {'; '.join(found[:10])}. {cure}")


def problems(path: Path) -> list[str]:
    """Return every reason not to load a file; none for a model of Keras' own layers."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            found = list(_of_members(archive, path.stat().st_size))
            if found:
                return found
            with archive.open(_WEIGHTS) as weights:
                found, widths = _of_weights(weights, archive.getinfo(_WEIGHTS).file_size)
            _read_json(archive, _METADATA)
            found += _of_config(_read_json(archive, _CONFIG), widths)
            return list(dict.fromkeys(found))
    except _DAMAGE as error:
        return [f"it is damaged, or not a model that Keras saved: {str(error) or type(error).__name__}"[:300]]


def _of_members(archive: zipfile.ZipFile, num_bytes: int) -> Iterator[str]:
    names = [member.filename for member in archive.infolist()]
    for name in sorted(set(names) - _MEMBERS):
        yield f"it holds {name!r}, which a model of Keras' own layers does not need"
    for name in sorted(_MEMBERS - set(names)):
        yield f"it lacks {name}"
    if len(names) > len(set(names)):
        yield "it holds a member twice, and readers differ in which one counts"
    for member in archive.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or member.is_dir():
            yield f"{member.filename!r} is a link or a folder"
        if member.flag_bits & 1:
            yield f"{member.filename!r} is encrypted"
        if member.filename == _WEIGHTS and member.compress_type != zipfile.ZIP_STORED:
            yield f"{_WEIGHTS} is compressed, which Keras never does: it may be much larger than it seems"
    if sum(member.file_size for member in archive.infolist() if member.filename == _WEIGHTS) > num_bytes:
        yield f"{_WEIGHTS} claims to be larger than the whole file"
    if any(member.file_size > _MAX_CONFIG_BYTES for member in archive.infolist() if member.filename != _WEIGHTS):
        yield f"its configuration claims to be larger than {_MAX_CONFIG_BYTES:,} bytes"


def _read_json(archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(name) as member:
        return json.loads(member.read(_MAX_CONFIG_BYTES), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its configuration contains a key twice")
    return found


def _of_config(config: Any, widths: frozenset[int]) -> list[str]:
    if not isinstance(config, dict) or "class_name" not in config:
        return ["its configuration does not describe a model"]
    return list(_of_value("", config, widths, 0))


def _of_value(key: str, value: Any, widths: frozenset[int], depth: int) -> Iterator[str]:
    """Yield the reasons against a part of the configuration, at any depth."""
    if depth > _MAX_DEPTH:
        yield f"its configuration is nested deeper than {_MAX_DEPTH}"
    elif isinstance(value, dict):
        if "class_name" in value:
            reason = refusal(value)
            if reason:
                yield f"its configuration {reason}"
        for name, part in value.items():
            yield from _of_value(name, part, widths, depth + 1)
    elif isinstance(value, list):
        for part in value:
            yield from _of_value(key, part, widths, depth + 1)
    elif isinstance(value, int) and not isinstance(value, bool) and key not in _ANY_NUMBER:
        if abs(value) > _MAX_NUMBER:
            yield f"its configuration sets {key} to {value:,}; expected at most {_MAX_NUMBER:,}"
        elif key in _WIDTHS and value not in widths:
            yield f"its configuration sets {key} to {value:,}, but none of its weights has this width"


def refusal(config: dict[str, object]) -> str:
    """Return why an object of a configuration is refused, "" if it is allowed."""
    name, module, registered = config.get("class_name"), config.get("module"), config.get("registered_name")
    if name == TENSOR and module is None and registered is None:
        return ""
    if not isinstance(name, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        return "describes an object whose class name is not a text"
    if registered not in (None, name):
        return f"names {registered!r}, a class that another package registers; only layers of Keras are loaded"
    if (module, name) not in ALLOWED:
        return f"names {name!r} of {module or 'no module'}, which is not an allowed layer of Keras"
    return ""


def _of_weights(file: IO[bytes], num_bytes: int) -> tuple[list[str], frozenset[int]]:
    """Return the problems of weights in HDF5, and the lengths of their axes."""
    found: list[str] = []
    widths: set[int] = set()
    seen: set[int] = set()
    held_bytes, waiting = 0, [""]
    with h5py.File(file, "r") as weights:
        while waiting:
            group_name = waiting.pop()
            group = weights[group_name] if group_name else weights
            for name in group:
                where = f"{group_name}/{name}"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    found.append(f"its weights {where!r} are a link, which may point to another file")
                    continue
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if address in seen or len(seen) > _MAX_OBJECTS:
                    return [f"its weights {where!r} occur twice, or there are too many"], frozenset()
                seen.add(address)
                if isinstance(item, h5py.Group):
                    waiting.append(where)
                elif isinstance(item, h5py.Dataset):
                    found += [f"its weights {where!r} {reason}" for reason in _of_array(item)]
                    widths |= set(item.shape or ())
                    held_bytes += item.nbytes
                else:
                    found.append(f"its weights {where!r} are not an array")
    if held_bytes > num_bytes:
        found.append(f"its weights claim to have {held_bytes:,} bytes, in a file of {num_bytes:,}")
    return found, frozenset(widths)


def _of_array(array: h5py.Dataset) -> Iterator[str]:
    if array.external is not None or array.is_virtual:
        yield "are in another file"
    if array.id.get_create_plist().get_nfilters():
        yield "are compressed, which Keras never does"
    if array.dtype.kind not in "fiub":
        yield f"are not numbers but {array.dtype}"
