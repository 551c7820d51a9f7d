"""Environment of child processes: the variables of workers, trainers and errands, without settings that would change their results."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import tuner

#: options of Python for a child: files in the current folder, for example `types.py`, never hide modules of Python or of packages
PYTHON = ("-P", "-m")
#: settings that every child gets: the backend, a fixed order of sets, and logs that show a crash
_FIXED = {"KERAS_BACKEND": "tensorflow", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
#: settings that a child gets unless the user has others: they change what TensorFlow logs
_USUAL = {"TF_CPP_MIN_LOG_LEVEL": "2"}
#: starts of the names of variables that change results, memory or the number of threads, without their underscore
_FAMILIES = (
    "KERAS", "TF", "TF2", "XLA", "ONEDNN", "DNNL", "OMP", "GOMP", "KMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB",
)  # fmt: skip
_OTHERS = {"NVIDIA_TF32_OVERRIDE"}
#: Python's own settings that turn warnings into errors, drop docstrings and assertions, change texts, or slow a process down
_PYTHON = {
    "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8",
    "PYTHONDEVMODE", "PYTHONDEBUG", "PYTHONVERBOSE", "PYTHONMALLOC", "PYTHONMALLOCSTATS", "PYTHONTRACEMALLOC", "PYTHONPROFILEIMPORTTIME",
    "PYTHONINTMAXSTRDIGITS", "PYTHONWARNDEFAULTENCODING", "PYTHONPERFSUPPORT", "PYTHONDUMPREFS", "PYTHONASYNCIODEBUG",
    "PYTHONLEGACYWINDOWSSTDIO", "PYTHON_JIT",
}  # fmt: skip
#: variables of these families that only say where files are, what is logged, or what a driver needs
_KEPT = {"KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_VMODULE", "TF_GPU_ALLOCATOR", "KMP_DUPLICATE_LIB_OK"}
#: starts of the names of Terraform's variables, which are not TensorFlow's
_TERRAFORM = (
    "TF_VAR_", "TF_CLI_", "TF_LOG", "TF_DATA_DIR", "TF_PLUGIN_", "TF_WORKSPACE", "TF_INPUT", "TF_IN_AUTOMATION", "TF_TOKEN_",
    "TF_REGISTRY_",
)  # fmt: skip
#: the option of XLA_FLAGS that names a folder of this machine
_CUDA_FOLDER = "--xla_gpu_cuda_data_dir="
#: what Keras does without a keras.json
_KERAS_DEFAULTS = {
    "backend": "tensorflow", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last", "nnx_enabled": False,
}  # fmt: skip
_MAX_SHOWN = 60


def for_child(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child process: the given one, without the settings that would change what it computes."""
    kept = {name: value for name, value in given.items() if not _is_overridden(name)}
    folder = next((part for part in given.get("XLA_FLAGS", "").split() if part.startswith(_CUDA_FOLDER)), None)
    if folder is not None:
        kept["XLA_FLAGS"] = folder
    if sys.getfilesystemencoding() == "utf-8":  # the child reads names of files as this process does, whatever its locale
        kept["PYTHONUTF8"] = "1"
    return _USUAL | kept | _FIXED | _import_path(kept)


def overridden(given: Mapping[str, str]) -> Iterator[str]:
    """Yield each setting that a child process does not get, as `NAME=value`."""
    here = for_child(given)
    for name, value in sorted(given.items()):
        if value and _is_overridden(name) and here.get(name) != value:
            yield f"{name}={_shortened(value)}"


def keras_settings(given: Mapping[str, str]) -> Iterator[str]:
    """Yield each setting of the user's keras.json that trainers do not use, as `name=value (file)`."""
    path = Path(given.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(settings, dict):
        return
    for name, usual in _KERAS_DEFAULTS.items():
        if name in settings and settings[name] != usual:
            yield f"{name}={_shortened(str(settings[name]))} ({path})"


def _shortened(value: str) -> str:
    text = " ".join(value.split())
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _is_overridden(name: str) -> bool:
    if name in _KEPT or name.startswith(_TERRAFORM):
        return False
    return name in _PYTHON or name in _OTHERS or name.partition("_")[0] in _FAMILIES


def _import_path(given: Mapping[str, str]) -> dict[str, str]:
    """Return PYTHONPATH with the folder of tuner, if a child would not find tuner otherwise: for example in a checkout."""
    folder = Path(tuner.__file__).resolve().parents[1]
    if folder.name in ("site-packages", "dist-packages"):
        return {}
    parts = given["PYTHONPATH"].split(os.pathsep) if given.get("PYTHONPATH") else []
    return {} if str(folder) in parts else {"PYTHONPATH": os.pathsep.join([*parts, str(folder)])}
