"""Write the fixtures in `work/` with the `tuner` that this Python imports: run it at commit e093cb4, as README.md says.

Everything is made in one fixed folder, because a database and a bundle name the folders that they were made in.
"""

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
#: where the fixtures are made; what they hold names this folder
WORK = Path("/tmp/tuner-e093cb4")
CACHE = WORK.with_name(f"{WORK.name}-cache")
KINDS = ("circle", "cross", "square")
NUM_IMAGES = 30
#: of `paused`, in the order in which they are enqueued after trial 0
ENQUEUED = (
    {"optimizer": "sgd", "batch_size": "2"},
    {"optimizer": "adamw", "batch_size": "2", "weight_decay": "0.01"},
    {"optimizer": "adam", "batch_size": "2", "weight_decay": "0.1", "learning_rate": "5e-3", "layer_decay": "1", "dropout": "0.125"},
    {"optimizer": "adam", "batch_size": "32", "weight_decay": "0.05", "learning_rate": "5e-3", "dropout": "0.25"},
)
PRUNED, FAILED, SUSPENDED, WAITING = 1, 2, 3, 4
#: epochs of a trial of `paused`
PROBE, FINE = 5, 12
COMPLETED = "SELECT number FROM trials JOIN studies USING (study_id) WHERE study_name = ? AND state = 'COMPLETE' ORDER BY number"


def main() -> None:
    """Make all fixtures anew."""
    shutil.rmtree(CACHE, ignore_errors=True)
    shutil.copytree(HERE / "sources", WORK)  # refuses a folder that is there
    try:
        draw_images()
        pause()
        finish_shapes()
        finish_digits()
        sign_in()
        tidy()
        expected = expect()
        (WORK / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        shutil.rmtree(HERE / "work", ignore_errors=True)
        shutil.copytree(WORK, HERE / "work", ignore=shutil.ignore_patterns("__pycache__", "logs", "*.log"))
    finally:
        shutil.rmtree(WORK)
        shutil.rmtree(CACHE, ignore_errors=True)


def draw_images() -> None:
    """A folder of images, a table of them, and the same as arrays."""
    generator = np.random.default_rng(0)
    drawn: list[tuple[Path, int]] = []
    for label, kind in enumerate(KINDS):
        for number in range(NUM_IMAGES):
            image = Image.fromarray(generator.integers(0, 60, (24, 24, 3), dtype=np.uint8))
            draw = ImageDraw.Draw(image)
            x, y = (int(value) for value in generator.integers(9, 15, 2))
            radius = int(generator.integers(5, 8))
            colour = tuple(int(value) for value in generator.integers(150, 256, 3))
            box = (x - radius, y - radius, x + radius, y + radius)
            if kind == "circle":
                draw.ellipse(box, outline=colour, width=2)
            elif kind == "square":
                draw.rectangle(box, outline=colour, width=2)
            else:
                draw.line(box, fill=colour, width=2)
                draw.line((box[0], box[3], box[2], box[1]), fill=colour, width=2)
            path = Path("images", kind, f"{number:02}.png")
            (WORK / path).parent.mkdir(parents=True, exist_ok=True)
            image.quantize(16).save(WORK / path, optimize=True)
            drawn.append((path, label))
    with (WORK / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label"])
        writer.writerows([str(path), KINDS[label]] for path, label in drawn)
    pixels = np.stack([np.asarray(Image.open(WORK / path).convert("RGB")) for path, _ in drawn])
    np.savez_compressed(WORK / "images.npz", x=pixels, y=np.array([label for _, label in drawn]), classes=np.array(KINDS))


def finish_shapes() -> None:
    """A study that is done, with two versions, the first of which was in production before the second."""
    tuner("run", "shapes.yaml", "--threads", "1")
    tuner("retrain", "shapes", "--top", "2", "--seeds", "2", "--threads", "1", "--allow-code", "small_backbone")
    tuner("versions", "shapes", "--add", "0")
    tuner("promote", "shapes", "1")
    tuner("promote", "shapes", "2")
    tuner("promote", "shapes", "1", "--to", "staging")
    tuner("export", "shapes", "--to", "shapes-bundle", "--version", "1", "--format", "all", "--allow-code", "small_backbone")


def finish_digits() -> None:
    """A study of probes, and the bundle of its best."""
    tuner("run", "digits.yaml", "--threads", "1")
    tuner("export", "digits", "--to", "digits-bundle")
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in (3, 5):
        pixels = (digits.images[number] * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels).save(WORK / f"digit-{number}.png")


def pause() -> None:
    """A study with a pruned, a failed, a suspended and an enqueued trial, and room for one more."""
    run = subprocess.Popen(command("run", "paused.yaml", "--threads", "1"), cwd=WORK, env=environment())
    until(lambda: epochs_done(0) > 0, run)
    run.send_signal(signal.SIGINT)  # before trial 1 is sampled
    run.wait()
    for given in ENQUEUED:
        sets = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
        tuner("enqueue", "paused", *sets)
    run = subprocess.Popen(command("run", "paused.yaml", "--threads", "1"), cwd=WORK, env=environment())
    until(lambda: epochs_done(PRUNED) > PROBE, run)
    with held(run):
        tuner("stop", "paused", "--trial", str(PRUNED))
        time.sleep(5)  # until the worker knows
    until(lambda: epochs_done(FAILED) > PROBE, run)
    trainer(run).kill()
    done = epochs_done(FAILED)
    until(lambda: epochs_done(FAILED) > done + 1, run)
    trainer(run).kill()
    until(lambda: epochs_done(SUSPENDED) >= PROBE + 4, run)
    with held(run):
        run.send_signal(signal.SIGINT)
        time.sleep(1)
    run.wait()
    assert PROBE + 4 <= epochs_done(SUSPENDED) < PROBE + FINE
    assert (WORK / "artifacts" / "paused" / f"trial-{SUSPENDED:05}" / "checkpoint").exists()
    tuner("stop", "paused", "--now")


def sign_in() -> None:
    """Sign in to the dashboard and change a study there, so that something stands in its log."""
    served = subprocess.Popen(
        command("dashboard", "--port", "0"), cwd=WORK, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert served.stdout is not None
    link = next(found[0] for line in served.stdout if (found := re.search(r"http://\S+", line)))
    threading.Thread(target=served.stdout.read, daemon=True).start()
    ((study,),) = query("SELECT study_id FROM studies WHERE study_name = 'shapes'")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    opener.open(link).read()
    site = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(link))
    form = urllib.parse.urlencode({"name": "shapes", "timeout": "3600"}).encode()
    request = urllib.request.Request(f"{site}/tuner/actions/studies/{study}/budget", data=form, headers={"Origin": site})
    opener.open(request).read()
    served.send_signal(signal.SIGINT)
    served.wait()


def tidy() -> None:
    """One small file, without what was written beside it."""
    database = sqlite3.connect(WORK / "storage.sqlite3", isolation_level=None)
    for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE", "VACUUM"):
        database.execute(statement).fetchall()
    database.close()


def expect() -> dict[str, Any]:
    """What this commit says of the fixtures, and what it makes of the paused study when it goes on with it."""
    told: dict[str, Any] = {
        "folder": str(WORK),
        "status": {study["study"]: study for study in json.loads(tuner("status", "--json"))},
        "best": {name: json.loads(tuner("best", name, "--json")) for name in ("shapes", "paused", "digits")},
        "versions": json.loads(tuner("versions", "--json")),
        "diff": json.loads(tuner("diff", "shapes", "1", "2", "--json")),
        "audit": json.loads(tuner("dashboard", "audit", "--json")),
        "predictions": {
            "shapes-bundle": json.loads(tuner("predict", "shapes-bundle", "images", "--top", "3", "--json")),
            "digits-bundle": json.loads(tuner("predict", "digits-bundle", "digit-3.png", "digit-5.png", "--top", "3", "--json")),
        },
    }
    tuner("export", "shapes", "--to", "shapes-trial-1.yaml", "--trial", "1")
    told["trials"] = {str(trial): exported("shapes", trial) for (trial,) in query(COMPLETED, "shapes")}
    told["suspended"] = {"trial": SUSPENDED, "epochs": epochs_done(SUSPENDED), "waiting": WAITING, "pruned": PRUNED, "failed": FAILED}
    before = WORK.with_name(f"{WORK.name}-before")
    shutil.copytree(WORK, before)
    try:
        checks = json.loads(tuner("verify", "shapes-bundle", "--json"))["checks"]
        told["verified"] = {check["name"]: check["outcome"] for check in checks}
        tuner("resume", "paused")
        tuner("run", "paused.yaml", "--threads", "1", "--no-export")
        told["resumed"] = {
            str(trial): {"search": exported("paused", trial)["search"], "curve": curve(trial)} for trial in (SUSPENDED, WAITING)
        }
    finally:
        shutil.rmtree(WORK)
        before.rename(WORK)
    return told


def exported(study: str, trial: int) -> Any:
    """A trial as it is exported."""
    path = WORK / "exported.json"
    tuner("export", study, "--trial", str(trial), "--to", path.name)
    told = json.loads(path.read_text())
    path.unlink()
    return told


def curve(trial: int) -> list[Sequence[Any]]:
    """Step, stage, loss and validation loss of each epoch of a trial of `paused`."""
    return query(
        "SELECT step, stage, loss, validation_loss FROM tuner_epochs JOIN studies USING (study_id) "
        "WHERE study_name = 'paused' AND trial_number = ? ORDER BY step",
        trial,
    )


def epochs_done(trial: int) -> int:
    """Epochs of both stages of a trial of `paused`."""
    return len(curve(trial))


@contextmanager
def held(run: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the trainer stand still during a `with` block, so that its trial does not end before it hears of what is asked."""
    process = trainer(run)
    process.suspend()
    yield
    process.resume()


def trainer(run: subprocess.Popen[bytes]) -> psutil.Process:
    """The largest process of a run is the one with TensorFlow."""
    return max(psutil.Process(run.pid).children(recursive=True), key=lambda process: process.memory_info().rss)


def until(holds: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
    while not holds():
        assert run.poll() is None, "the run ended too early"
        time.sleep(0.002)


def query(statement: str, *values: Any) -> list[Sequence[Any]]:
    """What the database holds; nothing while its tables are not there."""
    database = sqlite3.connect(f"file:{WORK}/storage.sqlite3", uri=True)
    try:
        return database.execute(statement, values).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        database.close()


def tuner(*arguments: str) -> str:
    """Run a command to its end; what it printed."""
    return subprocess.run(command(*arguments), cwd=WORK, env=environment(), check=True, stdout=subprocess.PIPE, text=True).stdout


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tuner", *arguments]


def environment() -> dict[str, str]:
    """Places that are named as a user names them; without accelerators and without a name of a user or host."""
    return dict(os.environ) | {
        "TUNER_STORAGE": "sqlite:///storage.sqlite3",
        "TUNER_ARTIFACTS": "artifacts",
        "TUNER_CACHE": str(CACHE),
        "CUDA_VISIBLE_DEVICES": "",
        "USER": "ada",
        "LOGNAME": "ada",
    }


if __name__ == "__main__":
    main()
