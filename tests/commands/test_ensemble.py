"""The end of a run: the ensemble is formed, measured once, and exported by default; trainers and errands are rehearsed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import databases
from tests.results import rehearsed_errand
from tuner.cli import main
from tuner.commands import ensemble as commands_ensemble
from tuner.commands import options, run
from tuner.errors import Dismissed
from tuner.protocol import messages
from tuner.results import best as bests
from tuner.results import ensemble as ensembles
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation, process
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import Limits, WarmTrainer
from tuner.workers.worker.worker import Worker


class _Counted(Rehearsal):
    """A trainer that notes which splits it reads."""

    def __init__(self, readings: list[str]) -> None:
        super().__init__(Script(writes_logits=True))
        self._readings = readings

    def send(self, message: messages.Message) -> None:
        if isinstance(message, messages.Evaluate):
            self._readings.append(f"test by trial {message.trial}")
        if isinstance(message, messages.Predict):
            self._readings += [f"{split} by member {message.trial}" for split in message.splits]
        super().send(message)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rehearse trainers and errands, and give the readings of splits."""
    found: list[str] = []
    monkeypatch.setattr(process, "start_trainer", lambda assignment: _Counted(found))
    monkeypatch.setattr(evaluation, "run", rehearsed_errand.run)
    return found


Make = Callable[..., tuple[Study, Assignment]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that gives a study whose trials are trained, and the assignment of its worker."""
    monkeypatch.chdir(tmp_path)
    storage = storages.open(databases.sqlite(tmp_path))

    def made(num_trials: int, **sections: object) -> tuple[Study, Assignment]:
        given = {"name": "study", "data": {"source": "digits"}, "sampler": "random", "pruner": "none", "training": {"promote": 1.0}}
        study = studies.join(StudySpec.model_validate(given | {"budget": {"trials": num_trials}} | sections), storage)
        places = Folders(cache=tmp_path / "cache", artifacts=tmp_path / "tuner-artifacts")
        trainer = WarmTrainer(lambda: Rehearsal(Script(writes_logits=True)), Limits(), Stopping())
        identity = trials.WorkerId.here("w1")
        Worker(study, trainer, identity=identity, folders=places, stopping=Stopping(), tell=lambda event: None).run()
        plan = options.plan_workers(1, None, None, None, None)
        (assignment,) = run.make_assignments(study, storage.url, places, plan)
        return study, assignment

    return made


def measured(study: Study, assignment: Assignment) -> ensembles.Ensemble:
    """Measure the result of a study, and return its ensemble."""
    commands_ensemble.measure(study, assignment, Stopping())
    found = ensembles.read(study)
    assert found is not None
    return found


def test_the_ensemble_is_formed_and_measured_with_one_reading_of_the_test_split(make: Make, readings: list[str]) -> None:
    study, assignment = make(3)
    found = measured(study, assignment)
    assert found.mirrored
    assert found.validation_accuracy == 1.0  # the mirror images of the rehearsal are always right
    assert found.num_test == 100
    assert found.milliseconds == pytest.approx(1000 * 0.2 * 2 * len(found.trials) / 100)
    best = bests.best(study).trial
    assert readings == [f"test by trial {best}", *(f"test by member {number}" for number in found.trials)]
    commands_ensemble.measure(study, assignment, Stopping())
    assert len(readings) == 1 + len(found.trials)
    assert ensembles.read(study) == found


def test_an_ensemble_whose_measurement_is_interrupted_is_kept_and_measured_next_time(make: Make, readings: list[str]) -> None:
    study, assignment = make(4)
    stopping = Stopping()
    stopping.ask()
    with pytest.raises(Dismissed):
        commands_ensemble.measure(study, assignment, stopping)
    formed = ensembles.read(study)
    assert formed is not None and formed.test_accuracy is None
    again = measured(study, assignment)
    assert again.is_same(formed) and again.test_accuracy is not None


def test_a_study_that_goes_on_gets_a_new_ensemble(make: Make, readings: list[str]) -> None:
    study, assignment = make(1)
    commands_ensemble.measure(study, assignment, Stopping())
    first = ensembles.read(study)
    assert first is not None
    assert first.trials == (0,)
    study, assignment = make(6)
    commands_ensemble.measure(study, assignment, Stopping())
    second = ensembles.read(study)
    assert second is not None
    assert len(second.trials) > 1


def test_a_trial_whose_weights_are_on_another_machine_is_no_member(
    make: Make, readings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(3)
    (assignment.folders.of_trial("study", 1) / "weights.weights").unlink()
    found = commands_ensemble.form(study, assignment.folders)
    assert found is not None
    assert 1 not in found.trials
    assert "trial 1 can be no member of the ensemble: its weights are not on this machine" in capsys.readouterr().err


def test_the_ensemble_is_exported_unless_one_network_is_asked_for(
    make: Make, readings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(3)
    found = measured(study, assignment)
    assert main.main(["export", "study", "--to", "home"]) == 0
    assert f"study: exporting the ensemble, {found.words}. For one network, add --single" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "home" / "metrics.json").read_text())
    assert metrics["ensemble"]["trials"] == list(found.trials)
    assert metrics["test"]["accuracy"] == found.test_accuracy
    assert "hyperparameters" in (tmp_path / "home" / "config.yaml").read_text()
    assert "# study-ensemble" in (tmp_path / "home" / "README.md").read_text()
    assert main.main(["export", "study", "--to", "one", "--single"]) == 0
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["ensemble"] is None
    assert main.main(["export", "study", "--to", "small", "--quantize", "int8"]) == 0
    assert "--quantize int8 applies to one network, so the best trial is exported" in capsys.readouterr().err
    assert main.main(["export", "study", "--to", "no", "--single", "--trial", "1"]) == 2


def test_a_member_without_weights_refuses_the_export_with_one_line(
    make: Make, readings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(3)
    found = measured(study, assignment)
    (assignment.folders.of_trial("study", found.trials[0]) / "weights.weights").unlink()
    assert main.main(["export", "study", "--to", "home"]) == 2
    assert f"the weights of trial {found.trials[0]} were stored in" in capsys.readouterr().err


def test_the_ensemble_teaches_one_network_once_and_the_better_one_is_exported(
    make: Make, readings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(8)
    found, best = measured(study, assignment), bests.best(study)
    assert len(found.trials) > 1
    readings.clear()
    assert main.main(["export", "study", "--to", "one", "--single"]) == 0
    told = capsys.readouterr().err
    assert "study: the ensemble teaches one network in 6 epochs; Ctrl-C interrupts it, and the same command resumes" in told
    taught = ensembles.read_taught(study)
    assert taught is not None
    assert (taught.trials, taught.trial) == (found.trials, best.trial)
    assert (taught.hyperparameters.label_smoothing, taught.hyperparameters.dropout) == (0.0, 0.1)
    assert Path(taught.weights).parent.name == f"taught-{'-'.join(str(number) for number in found.trials)}"
    assert readings == [f"test by trial {best.trial}"]
    is_better = taught.measured > best.value
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert (metrics["taught"] is not None) == is_better
    assert ("so the best trial stays" in told) != is_better
    assert main.main(["export", "study", "--to", "again", "--single"]) == 0
    assert "teaches" not in capsys.readouterr().err
    assert len(readings) == 1


def test_an_interrupted_teaching_resumes(make: Make, readings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    study, assignment = make(8)
    commands_ensemble.measure(study, assignment, Stopping())
    formed = ensembles.read(study)
    assert formed is not None
    stopping = Stopping()
    steps: list[int] = []

    def stop_after_three(epoch: messages.Epoch) -> None:
        steps.append(epoch.step)
        if epoch.step == 3:
            stopping.ask()

    with pytest.raises(Dismissed):
        commands_ensemble.teach(study, formed, assignment, stopping, stop_after_three)
    assert ensembles.read_taught(study) is None
    commands_ensemble.teach(study, formed, assignment, Stopping(), lambda epoch: steps.append(epoch.step))
    assert steps == sorted(set(steps)), "no epoch was trained twice"
    assert ensembles.read_taught(study) is not None


def test_an_export_forms_the_ensemble_of_a_study_that_only_workers_trained(
    make: Make, readings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(3)
    assert main.main(["export", "study", "--to", "home"]) == 0
    assert "study: exporting the ensemble" in capsys.readouterr().err
    found = ensembles.read(study)
    assert found is not None
    assert found.test_accuracy is None
    assert readings == []
    commands_ensemble.measure(study, assignment, Stopping())
    after = ensembles.read(study)
    assert after is not None
    assert after.is_same(found)
    assert after.num_test == 100


def test_a_trial_with_damaged_logits_is_no_member(make: Make, readings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    study, assignment = make(3)
    (assignment.folders.of_trial("study", 1) / "logits.npz").write_bytes(b"PK, but no archive")
    found = commands_ensemble.form(study, assignment.folders)
    assert found is not None
    assert 1 not in found.trials
    assert "trial 1 can be no member of the ensemble: its logits cannot be read" in capsys.readouterr().err


def of_members(study: Study, assignment: Assignment, num: int, *, mirrored: bool) -> ensembles.Ensemble:
    """Return the ensemble of the best members of a study's ensemble, computed from the stored predictions."""
    found = ensembles.read(study)
    assert found is not None
    known = commands_ensemble.predictions(study, found.trials[:num], assignment.folders.of_study(study.name))
    assert known is not None
    return ensembles.of_members(*known, mirrored=mirrored)


def test_the_mirror_images_of_an_export_can_be_switched_off_and_on(
    make: Make, readings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(6)
    found = measured(study, assignment)
    assert found.mirrored
    expected = of_members(study, assignment, len(found.trials), mirrored=False)
    assert main.main(["export", "study", "--to", "plain", "--mirror", "never"]) == 0
    told = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert (told["mirrored"], told["test"]) == (False, None)
    assert told["validation"]["accuracy"] == expected.validation_accuracy
    assert f"without mirror images: validation accuracy {expected.validation_accuracy:.4f}, " in capsys.readouterr().err
    assert main.main(["export", "study", "--to", "auto", "--mirror", "auto"]) == 0
    told = json.loads((tmp_path / "auto" / "metrics.json").read_text())
    assert (told["mirrored"], told["test"]["accuracy"]) == (True, found.test_accuracy)
    assert main.main(["export", "study", "--to", "one", "--mirror", "always", "--trial", "1"]) == 0
    told = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert (told["mirrored"], told["trial"], told["ensemble"]["trials"]) == (True, 1, [1])
    assert (tmp_path / "one" / "model.keras").read_text() == "temperature 1, 1 networks, mirrored"
    assert main.main(["export", "study", "--to", "alone", "--mirror", "never", "--trial", "1"]) == 0
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text())["mirrored"] is False


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["--mirror", "always", "--single"], "--single exports one network that sees each image once, but --mirror is always"),
        (["--mirror", "always", "--quantize", "int8"], "--quantize int8 exports one network that sees each image once"),
        (["--mirror", "never", "--version", "1"], "--mirror is never, but a version never changes"),
        (["--max-latency-ms", "5", "--single"], "--single and --max-latency-ms are both given; choose one."),
        (["--max-latency-ms", "5", "--trial", "1"], "--trial and --max-latency-ms are both given; choose one."),
        (["--max-latency-ms", "9.5"], "but no result of the study study is that fast on this machine: the fastest, trial "),
    ],
)
def test_options_that_exclude_each_other_and_limits_below_the_fastest_are_refused(
    make: Make, readings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], call: list[str], message: str
) -> None:
    study, assignment = make(3)
    commands_ensemble.measure(study, assignment, Stopping())
    capsys.readouterr()
    assert main.main(["export", "study", "--to", "home", *call]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("…")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "home").exists()


def test_the_mirror_images_of_a_trial_whose_predictions_are_elsewhere_are_refused(
    make: Make, readings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, assignment = make(2)
    for path in assignment.folders.of_study("study").rglob("*logits*"):
        path.unlink()
    assert main.main(["export", "study", "--to", "home", "--trial", "1", "--mirror", "always"]) == 2
    assert "--mirror cannot change the export: what trial 1 predicted" in capsys.readouterr().err


def test_the_best_result_that_is_fast_enough_is_exported(
    make: Make, readings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, assignment = make(6)
    found = measured(study, assignment)
    assert found.num_networks >= 4
    # the time of the rehearsal is 10 ms for each pass through a network
    assert main.main(["export", "study", "--to", "all", "--max-latency-ms", str(10 * found.num_networks)]) == 0
    assert f"study: exporting {found.words}: {10 * found.num_networks}.0 ms for one image" in capsys.readouterr().err
    assert json.loads((tmp_path / "all" / "metrics.json").read_text())["test"]["accuracy"] == found.test_accuracy

    assert main.main(["export", "study", "--to", "two", "--max-latency-ms", "20"]) == 0
    pairs = [of_members(study, assignment, *each[:1], mirrored=each[1]) for each in ((1, True), (2, False))]
    best = max(one.measured for one in pairs)
    told = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert told["validation"]["accuracy"] == best
    assert f"{best - found.measured:+.4f} compared with {found.words}, which takes" in capsys.readouterr().err

    assert main.main(["export", "study", "--to", "one", "--max-latency-ms", "10"]) == 0
    told = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert (told["ensemble"], told["trial"], told["mirrored"]) == (None, bests.best(study).trial, False)
    assert main.main(["export", "study", "--to", "small", "--max-latency-ms", "99", "--quantize", "int8"]) == 0
    assert json.loads((tmp_path / "small" / "metrics.json").read_text())["ensemble"] is None


def test_without_an_ensemble_the_best_trial_is_measured_alone(make: Make, readings: list[str], tmp_path: Path) -> None:
    study, _ = make(1, results={"mirror": "never"})
    assert bests.best(study).ensemble is None
    assert main.main(["export", "study", "--to", "home", "--max-latency-ms", "10"]) == 0
    assert json.loads((tmp_path / "home" / "metrics.json").read_text())["trial"] == 0


def test_an_interrupted_export_of_one_network_says_how_to_resume(
    make: Make, readings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise Dismissed("asked to stop")

    measured(*make(8))
    monkeypatch.setattr(commands_ensemble, "teach", stop)
    assert main.main(["export", "study", "--to", "one", "--single"]) == 1
    assert capsys.readouterr().err.endswith("study: stopped before the network was taught. Run the same command to resume\n")
    assert not Path("one").exists()


def test_the_ensemble_of_another_metric_is_chosen_measured_and_told_in_it(make: Make, readings: list[str], tmp_path: Path) -> None:
    study, assignment = make(3, objective="macro_f1")
    found = measured(study, assignment)
    assert (found.metric, found.value) == ("macro_f1", 1.0)  # the mirror images of the rehearsal are always right
    assert found.test_value is not None and found.test_accuracy is not None
    assert found.test_value == pytest.approx(found.test_accuracy, abs=0.02)  # its classes have equally many images
    assert main.main(["export", "study", "--to", "home"]) == 0
    assert json.loads((tmp_path / "home" / "metrics.json").read_text())["ensemble"]["value"] == 1.0
    assert "validation macro f1 1.0000" in (tmp_path / "home" / "README.md").read_text()
