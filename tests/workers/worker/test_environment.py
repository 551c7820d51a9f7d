"""The environment of child processes: which of the user's variables they get."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.workers.worker import trainer

#: settings of people's shells, each of which changes or ends a trainer that gets it
HOSTILE = {
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_NNX_ENABLED": "true",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    "TF2_BEHAVIOR": "0",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
    "NVIDIA_TF32_OVERRIDE": "0",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Prescott",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "7",
    "PYTHONINSPECT": "1",
    "PYTHONIOENCODING": "ascii",
    "PYTHONSTARTUP": "/nonexistent.py",
}
#: settings that a child needs as they are
NEEDED = {
    "PATH": "/bin", "HOME": "/home/me", "TF_CLI_CONFIG_FILE": "/home/me/.terraformrc", "KERAS_HOME": "/data/keras",
    "TFDS_DATA_DIR": "/data/tfds", "CUDA_VISIBLE_DEVICES": "1",
    "TF_GPU_ALLOCATOR": "cuda_malloc_async", "PYTHON_VERSION": "3.13", "TF_VAR_region": "terraform",
    "TUNER_CACHE_LIMIT": "1GB", "LD_LIBRARY_PATH": "/usr/lib/cuda",
}  # fmt: skip


def test_a_child_is_the_same_whatever_the_shell_sets() -> None:
    assert trainer.child_environment(HOSTILE | NEEDED) == trainer.child_environment(NEEDED)


def test_a_child_keeps_what_it_needs() -> None:
    assert trainer.child_environment(NEEDED).items() >= NEEDED.items()


def test_every_child_uses_tensorflow_and_one_order_of_sets() -> None:
    assert trainer.child_environment({}).items() >= {"KERAS_BACKEND": "tensorflow", "PYTHONHASHSEED": "0"}.items()


def test_the_user_decides_what_tensorflow_logs() -> None:
    assert trainer.child_environment({})["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert trainer.child_environment({"TF_CPP_MIN_LOG_LEVEL": "0"})["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_of_the_flags_of_xla_only_the_folder_of_cuda_remains() -> None:
    given = {"XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir=/opt/cuda"}
    assert trainer.child_environment(given)["XLA_FLAGS"] == "--xla_gpu_cuda_data_dir=/opt/cuda"


def test_the_overridden_settings_are_named_with_their_values() -> None:
    given = NEEDED | {"KERAS_BACKEND": "jax", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "x" * 100}
    assert list(trainer.overridden_variables(given)) == ["KERAS_BACKEND=jax", "OMP_NUM_THREADS=" + "x" * 59 + "…", "PYTHONWARNINGS=error"]


def test_a_setting_with_the_value_of_every_child_is_not_named() -> None:
    assert not list(trainer.overridden_variables({"KERAS_BACKEND": "tensorflow", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": ""}))


@pytest.mark.parametrize("folder", ["HOME", "KERAS_HOME"])
def test_the_settings_of_keras_json_are_named_if_they_differ_from_the_defaults(folder: str, tmp_path: Path,
                                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / (".keras" if folder == "HOME" else "") / "keras.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"backend": "torch", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_first"}))
    given = {} if folder == "HOME" else {"KERAS_HOME": str(tmp_path)}
    assert list(trainer.keras_settings(given)) == [f"backend=torch ({file})", f"image_data_format=channels_first ({file})"]


@pytest.mark.parametrize("content", [None, "not json", "[1]", "{}"])
def test_an_unusable_keras_json_has_no_settings(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    assert not list(trainer.keras_settings({"KERAS_HOME": str(tmp_path)}))


def test_files_of_the_current_folder_do_not_hide_modules_from_a_child(tmp_path: Path) -> None:
    for name in ("types.py", "random.py", "numpy.py", "keras.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    done = subprocess.run(
        [sys.executable, *trainer.PYTHON, "tuner.trainer.process", "--help"], cwd=tmp_path,
        env=trainer.child_environment(dict(os.environ) | HOSTILE), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--threads" in done.stdout


def test_a_child_finds_tuner_where_this_process_found_it(tmp_path: Path) -> None:
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *trainer.PYTHON, "tuner", "--version"], cwd=tmp_path,
        env=trainer.child_environment(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("tuner "), done.stderr


def test_a_user_without_a_home_folder_has_no_keras_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(RuntimeError):
        Path.home()
    assert not list(trainer.keras_settings({}))
