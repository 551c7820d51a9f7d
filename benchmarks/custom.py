"""Measure what tuner adds to `model.fit`: a trial and an epoch of a study with `task: custom`, and the memory of a trainer.

`python -m benchmarks.custom`, from the root of the project. The same model is trained by a plain script in one process, and by one worker;
both train several models one after another, so that the import of Keras and the first trace are left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = """
import keras
import numpy as np

WIDTH, STEPS = {width}, {steps}

def load():
    random = np.random.default_rng(0)
    x = random.normal(size=(32 * STEPS, 64)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")
    return (x, y), (x[:256], y[:256])

def build(hp):
    rate = hp.Float("rate", 1e-4, 1e-2, sampling="log")
    layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model
"""
#: a different network for each trial
DIFFERENT = """
def different(hp):
    layers = [keras.layers.Dense(hp.Int(f"units{{number}}", 16, 512), "relu") for number in range(hp.Int("layers", 1, 6))]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(1, "sigmoid")])
    model.compile(hp.Choice("optimizer", ["adam", "sgd", "rmsprop"]), "binary_crossentropy", metrics=["accuracy"])
    return model
"""
PLAIN = """
import gc, json, sys, time
import keras
import mine

class Fixed:
    def Float(self, name, low, high, sampling):
        return 1e-3

(x, y), validation = mine.load()
seconds = []
for number in range({trials}):
    begun = time.perf_counter()
    keras.utils.set_random_seed(number)
    mine.build(Fixed()).fit(x, y, batch_size=32, epochs={epochs}, validation_data=validation, verbose=0)
    seconds.append(time.perf_counter() - begun)
    keras.backend.clear_session(free_memory=False)
    gc.collect()
print(json.dumps(seconds))
"""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400, help="batches of an epoch")
    parser.add_argument("--memory-trials", type=int, default=0, help="also measure the memory of a trainer over so many trials")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine.py").write_text((CODE + DIFFERENT).format(width=given.width, steps=given.steps))
        plain = [seconds for _ in range(2) for seconds in run_plain(folder, given.trials, given.epochs)[1:]]
        ours = [seconds for _ in range(2) for seconds in run_tuner(folder, given.trials, given.epochs)[1:]]
        before, after = statistics.median(plain), statistics.median(ours)
        print("| | seconds a trial | an epoch |\n|---|---|---|")
        print(f"| plain script | {before:.3f} | {before / given.epochs:.3f} |\n| tuner | {after:.3f} | {after / given.epochs:.3f} |")
        print(f"| difference | {after - before:+.3f} | {(after / before - 1):+.1%} |", flush=True)
        if given.memory_trials:
            print_memory(folder, given.memory_trials)


def run_plain(folder: Path, trials: int, epochs: int) -> list[float]:
    """Return the seconds of each training of a plain script."""
    (folder / "plain.py").write_text(PLAIN.format(trials=trials, epochs=epochs))
    ended = subprocess.run([sys.executable, "plain.py"], cwd=folder, check=True, capture_output=True, text=True)
    return [float(seconds) for seconds in json.loads(ended.stdout.splitlines()[-1])]


def run_tuner(folder: Path, trials: int, epochs: int) -> list[float]:
    """Return the seconds from the start of each trial of a worker to its end, as the storage has them."""
    import optuna

    url = f"sqlite:///{folder / f'{time.monotonic_ns()}.db'}"
    _write_study(folder, epochs)
    _run(folder, "--trials", str(trials), "--storage", url)
    found = optuna.load_study(study_name="mine", storage=url).trials
    return [
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        for trial in found
        if trial.datetime_complete and trial.datetime_start
    ]


def print_memory(folder: Path, trials: int) -> None:
    """Print the memory of the trainer after 10 trials of different models, and then after every tenth."""
    import psutil

    _write_study(folder, 1, build="different")
    url = f"sqlite:///{folder / 'memory.db'}"
    command = [sys.executable, "-m", "tuner", "run", "mine.yaml", "--no-export", "--trials", str(trials), "--storage", url]
    running = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert running.stdout is not None
    print("| different models | MiB of the trainer | its process |\n|---|---|---|")
    done = 0
    for line in running.stdout:
        if " completed value " in line:
            done += 1
            if done % 10 == 0:
                trainer = [
                    each for each in psutil.Process(running.pid).children(recursive=True) if "tuner.trainer.process" in each.cmdline()
                ]
                print(f"| {done} | {trainer[0].memory_info().rss / 2**20:.0f} | {trainer[0].pid} |", flush=True)
    running.wait()


def _write_study(folder: Path, epochs: int, *, build: str = "build") -> None:
    study = {"name": "mine", "task": "custom", "model": {"build": f"mine.py:{build}"}, "data": {"load": "mine.py:load"}}
    more = {"objective": "val_accuracy", "training": {"epochs": epochs}, "pruner": "none", "sampler": "random"}
    (folder / "mine.yaml").write_text(json.dumps(study | more))


def _run(folder: Path, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "tuner", "run", "mine.yaml", "--no-export", *options], cwd=folder, check=True, capture_output=True
    )


if __name__ == "__main__":
    main()
