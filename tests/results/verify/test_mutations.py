"""Two hundred broken bundles, each refused with its reason before any of its files is loaded."""

import dataclasses
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.results import bundles
from tests.trust import keras_files
from tuner.results.bundle import manifest, sign
from tuner.results.verify import verification
from tuner.results.verify.verification import Outcome
from tuner.workers.worker import evaluation

NUM_FLIPPED, NUM_SIGNED, NUM_CUT = 80, 40, 12
#: changes a bundle; a part of the expected refusal
Mutation = tuple[str, Callable[[Path], None], str]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a signed bundle and the public key."""
    folder = tmp_path_factory.mktemp("pristine")
    bundle = bundles.make(folder / "bundle", folder / "data.npz")
    public = sign.make_keys(folder / "key")
    sign.sign(bundle, folder / "key")
    return bundle, public


def names(bundle: Path) -> list[str]:
    return list(manifest.read(bundle).files)


def flip(bundle: Path, name: str, seed: int) -> None:
    draw = random.Random(seed)
    content = bytearray((bundle / name).read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    (bundle / name).write_bytes(content)


def shorten(bundle: Path, name: str, left: int) -> None:
    os.truncate(bundle / name, left)


def delete(bundle: Path, name: str) -> None:
    (bundle / name).unlink()


def put(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(content)


def renewed(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Change a bundle, write a new manifest and delete the signature."""

    def work(bundle: Path) -> None:
        change(bundle)
        manifest.write(bundle)
        (bundle / manifest.SIGNATURE).unlink()

    return work


def flipped(bundle: Path) -> Iterator[Mutation]:
    """Flip a bit of each file, including the manifest."""
    draw = random.Random(1)
    files = [*names(bundle), manifest.NAME]
    for number in range(NUM_FLIPPED):
        name, seed = files[number % len(files)], draw.randrange(2**32)
        yield f"bit {number} of {name}", partial(flip, name=name, seed=seed), ""


def cut(bundle: Path) -> Iterator[Mutation]:
    draw = random.Random(2)
    for number in range(NUM_CUT):
        name = draw.choice(names(bundle))
        left = draw.randrange((bundle / name).stat().st_size)
        yield f"cut {number} of {name}", partial(shorten, name=name, left=left), name


def signed(bundle: Path) -> Iterator[Mutation]:
    """Flip a bit of each file and write a new manifest, so that only the signature shows the change."""
    draw = random.Random(3)
    for number in range(NUM_SIGNED):
        name, seed = draw.choice(names(bundle)), draw.randrange(2**32)

        def change(copy: Path, name: str = name, seed: int = seed) -> None:
            flip(copy, name, seed)
            manifest.write(copy)

        yield f"forged {number} of {name}", change, "mismatch"


def moved(bundle: Path) -> Iterator[Mutation]:
    """Swap, delete and add files, links and other things."""

    def swap(copy: Path) -> None:
        (copy / "labels.txt").rename(copy / "x")
        (copy / "README.md").rename(copy / "labels.txt")
        (copy / "x").rename(copy / "README.md")

    def swap_probes(copy: Path) -> None:
        (copy / "probes/000.png").rename(copy / "x")
        (copy / "probes/001.png").rename(copy / "probes/000.png")
        (copy / "x").rename(copy / "probes/001.png")

    def link(copy: Path, target: str) -> None:
        (copy / "labels.txt").unlink()
        (copy / "labels.txt").symlink_to(target)

    def no_file(copy: Path) -> None:
        (copy / manifest.NAME).unlink()
        (copy / manifest.NAME).mkdir()

    yield "labels and README swapped", swap, "labels.txt"
    yield "probes swapped", swap_probes, "probes/000.png"
    for name in names(bundle):
        yield f"{name} missing", partial(delete, name=name), f"{name} is listed in the manifest but missing"
    yield "no manifest", lambda copy: (copy / manifest.NAME).unlink(), "manifest.json is missing"
    yield "manifest a folder", no_file, "manifest.json"
    for name in ("evil.py", "probes/evil.pkl", "sitecustomize.py", "saved_model/saved_model.pb", ".hidden", "variables.index"):
        yield f"{name} added", partial(put, name=name, content=b"evil"), f"{name} is not in the manifest"
    for target in ("/etc/passwd", "../data.npz", "README.md", "nowhere", "/dev/zero", "."):
        yield f"a link to {target}", partial(link, target=target), "is a link"
    yield "a pipe", lambda copy: os.mkfifo(copy / "pipe"), "a pipe"
    yield "a folder that is a link", lambda copy: (copy / "plots").symlink_to("/etc"), "is a link"


def listed(bundle: Path) -> Iterator[Mutation]:
    """Write manifests that list what is not allowed."""

    def entry(copy: Path, name: str, **fields: Any) -> None:
        content = json.loads((copy / manifest.NAME).read_text())
        content["files"][name] = {"sha256": "0" * 64, "size": 1} | fields
        (copy / manifest.NAME).write_text(json.dumps(content))

    def enormous(copy: Path) -> None:
        for number in range(2):
            entry(copy, f"{number}.txt", size=6 * 10**10)

    for name in ("../up.txt", "../../etc/cron.d/x", "/etc/passwd", "a/../../b", "./a", "a//b", "C:/x", "a\\..\\b", "a\0b", "~/\u202e.txt"):
        yield f"lists {name!r}", partial(entry, name=name), "not allowed in a bundle"
    yield "lists an enormous file", lambda copy: entry(copy, "labels.txt", size=10**18), "manifest.json"
    yield "lists many enormous files", enormous, "more than"
    yield "lists a file of another hash", lambda copy: entry(copy, "labels.txt", size=9), "labels.txt has the SHA-256"
    yield "lists a negative size", lambda copy: entry(copy, "labels.txt", size=-1), "manifest.json"


def unsafe(canary: Path) -> Iterator[Mutation]:
    """Add models that would run code or fill the memory when they are loaded, with a matching manifest."""
    code = f"open({str(canary)!r}, 'w')"
    pickled = b"\x80\x04c__builtin__\neval\n(V" + code.encode() + b"\ntR."

    def model(**parts: Any) -> Callable[[Path], None]:
        return file("model.keras", keras_files.packed(**parts))

    def file(name: str, content: bytes) -> Callable[[Path], None]:
        return renewed(partial(put, name=name, content=content))

    def layer(kind: str, module: str | None = "keras.layers", registered: str | None = None, **config: Any) -> Callable[[Path], None]:
        return model(layers=[{"module": module, "class_name": kind, "config": config, "registered_name": registered}])

    function = {"class_name": "__lambda__", "config": {"value": [code, None, None]}}
    yield "a Lambda layer", layer("Lambda", function=function), "'Lambda'"
    yield "a lambda as an activation", layer("Activation", activation=function), "'__lambda__'"
    for kind in ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup", "TextVectorization", "Pipeline", "Wrapper"):
        yield f"a layer {kind}", layer(kind, filepath=str(canary)), f"'{kind}'"
    for module, kind in (("builtins", "eval"), ("os", "system"), ("subprocess", "Popen"), ("keras.src.utils.file_utils", "get_file")):
        yield f"{module}.{kind}", layer(kind, module), f"'{kind}' of {module}"
        called = {"module": module, "class_name": "function", "config": kind, "registered_name": kind}
        yield f"{module}.{kind} as a function", layer("Dense", activation=called), f"'{kind}'"
    yield "a registered class", layer("Dense", "evil", "evil>Dense"), "'evil>Dense'"
    yield "a wide layer", layer("Dense", units=60_000), "none of its weights has this width"
    yield "a huge padding", layer("ZeroPadding2D", padding=10**7), "sets padding"
    for name in ("../evil.py", "/tmp/evil.py", "payload.pkl", "assets/x/vocabulary.txt", "model.weights.npz"):
        yield f"{name} in model.keras", model(extra={name: pickled}), repr(name)
    yield "a pickle in place of model.keras", file("model.keras", pickled), "is a pickle"
    yield "a pickle in place of the weights", model(weights=pickled), "damaged"
    yield "a pickle as a plot", file("plot.png", pickled), "is a pickle"
    yield "a pickle by its name", file("weights.pkl", pickled), "no export writes"
    yield "a module", file("sitecustomize.py", code.encode()), "no export writes"
    yield "a program", file("labels.txt", b"#!/bin/sh\n"), "is a program"
    yield "a zip bomb", model(weights=b"\0" * 10_000_000, compression=zipfile.ZIP_DEFLATED), "compressed"
    yield "a bomb in the configuration", model(config=b" " * 34_000_000, compression=zipfile.ZIP_DEFLATED), "compressed"
    yield "a deep configuration", model(config=b"[" * 200_000), "damaged"
    yield "a link in the archive", model(mode=0o120777), "link"
    for what, change in h5_attacks(canary):
        yield what, model(weights=keras_files.weights(change)), "its weights"


def h5_attacks(canary: Path) -> Iterator[tuple[str, Callable[[h5py.File], None]]]:
    """Yield weights that read other files or expand."""

    def external(file: h5py.File) -> None:
        file.create_dataset("layers/x", shape=(4,), dtype="u1", external=[("/etc/passwd", 0, 4)])

    def link(file: h5py.File) -> None:
        file["layers/x"] = h5py.ExternalLink(str(canary), "/")

    def ring(file: h5py.File) -> None:
        file["layers/x"] = file["layers"]

    def bomb(file: h5py.File) -> None:
        file.create_dataset("layers/x", shape=(10**6,), dtype="f4", compression="gzip")

    def hollow(file: h5py.File) -> None:
        file.create_dataset("layers/x", shape=(10**9,), dtype="f4", chunks=(1024,))

    yield from (("other files as weights", external), ("a link in the weights", link), ("a ring in the weights", ring))
    yield from (("compressed weights", bomb), ("hollow weights", hollow))


def test_two_hundred_broken_bundles_are_refused_and_never_run(
    pristine: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, public = pristine
    canary = tmp_path / "canary"

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model of a refused bundle was about to be loaded")

    monkeypatch.setattr(evaluation, "run", load)
    mutations = [*flipped(bundle), *cut(bundle), *signed(bundle), *moved(bundle), *listed(bundle), *unsafe(canary)]
    assert len(mutations) >= 200 and len({what for what, _, _ in mutations}) == len(mutations)
    wanted = verification.VerificationOptions(
        key=None,
        requirements=None,
        is_robustness_wanted=False,
        most_images=1,
        tolerance=0.0,
        cache=tmp_path,
        localize=lambda spec: spec,
        needs_data=False,
    )
    with_key = dataclasses.replace(wanted, key=public)
    for what, change, said in mutations:
        copy = tmp_path / "copy"
        shutil.copytree(bundle, copy, symlinks=True)
        change(copy)
        report = verification.verify(copy, with_key if what.startswith("forged") else wanted, tell=lambda _: None)
        reasons = "; ".join(line for check in report.checks if check.outcome is Outcome.FAILED for line in check.found)
        assert not report.is_good and reasons, what
        assert said.lower() in reasons.lower(), f"{what}: {reasons}"
        assert report.measured is None
        shutil.rmtree(copy)
    assert not canary.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_the_bundle_before_the_mutations_passes_every_check(pristine: tuple[Path, Path]) -> None:
    bundle, public = pristine
    assert manifest.check(bundle) == [] and sign.refusal(bundle, public) == ""
    with zipfile.ZipFile(io.BytesIO((bundle / "model.keras").read_bytes())) as archive:
        assert archive.testzip() is None
