"""The recorder of the replay laboratory, on a few digits at 32 pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.keras_studies import _as_in_the_trainer  # noqa: F401 - TensorFlow as all tests in this process use it

# isort: split
from benchmarks.replay import jobs, record, trial_files
from benchmarks.replay.jobs import Job, Kind, Length
from benchmarks.replay.trial_files import Recording
from tuner.kernels import devices
from tuner.machine import TrainerShare


def test_a_continued_trial_is_recorded_after_its_first_half_and_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs.Job(data_set="digits", image_size=32, number=0, length=Length.CONTINUED)
    recorder = record.Recorder(npz=None, cache=tmp_path / "cache", epochs=2, share=TrainerShare(threads=1))
    record.write_job(recorder, job, tmp_path)
    printed = capsys.readouterr().out
    half, whole = (trial_files.read(tmp_path / f"digits-32-{length}" / "00.npz") for length in ("half", "continued"))
    assert record.file_of(tmp_path, job) == tmp_path / "digits-32-continued" / "00.npz"
    assert [line.partition(" validation 0.")[0] for line in printed.splitlines()] == [
        "digits-32-half  0 recipe",
        "digits-32-continued  0 recipe",
    ]
    for found, length, epochs in ((half, "half", 1), (whole, "continued", 2)):
        facts = found.facts
        assert (facts.length, facts.kind, facts.num_train, facts.num_validation) == (length, Kind.RECIPE, 300, 300)
        assert (facts.num_test, len(facts.probe), len(facts.fine_tune), facts.is_whole) == (1197, 1, epochs, True)
        assert all(epoch.processor_seconds > 0 for epoch in facts.fine_tune)
        # the logits of the last epoch are those that its scores were computed from
        right = found.of("validation").argmax(1) == found.labels["validation"]
        assert float(np.mean(right)) == pytest.approx(facts.fine_tune[-1].validation_accuracy, abs=0.01)
        assert found.of("test", view="mirrored").shape == (1197, 10)
        assert (found.of("test", view="mirrored") != found.of("test")).any()
        # all 300 training images forward and twice backward, 300 validation images forward; features of 600 views, and of 300 images
        assert facts.epoch_multiply_adds / facts.features_multiply_adds == pytest.approx(1200 / 900, rel=0.02)
    assert whole.facts.fine_tune[0] == half.facts.fine_tune[0]
    # the second half begins where the first ended: a new fine-tuning would begin with the head of the probe
    assert whole.facts.fine_tune[1].validation_loss < half.facts.fine_tune[0].validation_loss


class _Recorder:
    """A recorder that only notes its jobs, and is interrupted at the second."""

    def __init__(self, **given: Any) -> None:
        self.numbers: list[int] = []

    def record(self, job: Job) -> Iterator[tuple[Job, Recording]]:
        self.numbers.append(job.number)
        if len(self.numbers) == 2:
            raise KeyboardInterrupt
        yield from ()


def test_recorded_trials_are_skipped_and_an_interruption_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits").mkdir()
    for number in (0, 2):
        (tmp_path / "digits" / f"{number:02d}.npz").touch()
    recorder = _Recorder()
    monkeypatch.setattr(record, "Recorder", lambda **given: recorder)
    monkeypatch.setattr(devices, "limit_tensorflow", lambda share: None)
    monkeypatch.setattr("sys.argv", ["record", "--to", str(tmp_path), "--data-sets", "digits"])
    record.main()
    assert recorder.numbers == [1, 3]
    assert capsys.readouterr().out.splitlines() == ["26 trials to record on digits", "interrupted; the same command resumes"]
