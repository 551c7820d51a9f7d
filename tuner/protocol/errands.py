"""Errands: what a separate process with Keras does with a model outside a search, and its answers, as JSON.

Export → Exported                  write stored weights as a standalone model in several formats
Measure → Measured                 measure the time of several models before one is exported
Compare → Compared                 load one of these formats, and compare its predictions with those of the Keras model
PredictImages → ImagePredictions   predict image files with a bundle's model
ExportCode → ExportedCode          write stored weights of a user model in several formats
MeanOfCode → MeansMeasured         score the mean of what the models of several trials of user code predict
PredictArrays → ArrayPredictions   predict arrays with a bundle of a user model
Verify → Verified                  measure a bundle's model on its sample images, on the test split and on corrupted images

Each may also be answered by ErrandFailed.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tuner.spec.hyperparameters import Hyperparameters, Plain, TargetKind
from tuner.spec.objective import ImageMetric


class Format(StrEnum):
    """The file formats of an exported model."""

    KERAS = "keras"
    SAVED_MODEL = "savedmodel"
    ONNX = "onnx"
    LITERT = "litert"
    INT8 = "int8"


#: file or folder of each format in a bundle
BUNDLE_PATHS = {
    Format.KERAS: "model.keras",
    Format.SAVED_MODEL: "saved_model",
    Format.ONNX: "model.onnx",
    Format.LITERT: "model.tflite",
    Format.INT8: "model.int8.tflite",
}


#: what an output of a user model means: probabilities of classes, the probability of one class, or other numbers
Meaning = Literal["probabilities", "probability", "numbers"]


class _Errand(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Answers(_Errand):
    """What the outputs of a model of images mean, and how they are judged."""

    kind: TargetKind = TargetKind.LABEL
    #: the metric of the study
    metric: ImageMetric = "accuracy"
    #: of each class, if an image may have several labels: the probability from which it gets the label
    thresholds: tuple[float, ...] = ()


class TrainedNetwork(_Errand):
    """A trained network."""

    #: the StudySpec as JSON
    spec: str
    hyperparameters: Hyperparameters
    #: .npz file with the weights
    weights: str


class Export(_Errand):
    """Write a model, and its predictions for some images, to an existing folder; the answer is Exported or ErrandFailed."""

    kind: Literal["export"] = "export"
    #: folder with decoded images and features
    cache: str
    #: one network, or the members of an ensemble, whose probabilities are averaged
    networks: tuple[TrainedNetwork, ...]
    #: whether each network sees the mirror image, too
    mirrored: bool = False
    #: divisor of the logits before the softmax
    temperature: float
    formats: tuple[Format, ...]
    #: folder for the model, and for the sample images in `probes/`
    folder: str
    num_probes: int
    #: path of an .npz file for Compare: images (n, size, size, 3) uint8 and the model's probabilities (n, classes)
    answers: str
    #: maximum number of images to compare
    num_compared: int
    #: whether to score the test split with the model: members of several sizes see other pixels in it than alone
    scores_test: bool = False
    answers_mean: Answers = Answers()


class Sample(_Errand):
    """A validation image in the bundle, and the Keras model's prediction for it."""

    #: file name in `probes/`
    file: str
    #: the true class, and the class with the highest probability
    label: str
    predicted: str
    #: one for each class, in the order of the classes; or one number
    probabilities: tuple[float, ...]
    #: if an image has several labels or a number: 0 or 1 for each class, or the number
    truth: Annotated[tuple[float, ...], Field(exclude_if=lambda value: not value)] = ()


class Exported(_Errand):
    """The model is written."""

    kind: Literal["exported"] = "exported"
    classes: tuple[str, ...]
    #: number of weights, trained and frozen
    num_parameters: int
    #: time to write each format
    seconds: dict[Format, float]
    probes: tuple[Sample, ...]
    num_compared: int
    #: accuracy of the model on the test split; None: it was not scored, or predicts numbers
    test_accuracy: float | None = None
    #: the metric of the study there, if an image has several labels or a number
    test_value: float | None = None
    #: version of each installed package, by name
    packages: dict[str, str]
    #: versions of Python, Keras, TensorFlow and tuner
    versions: dict[str, str]


class Variant(_Errand):
    """A model of some trained networks, whose probabilities are averaged."""

    #: indices in `Measure.networks`
    members: tuple[int, ...]
    #: whether each member sees the mirror image, too
    mirrored: bool = False

    @property
    def num_passes(self) -> int:
        """How often an image passes through a network."""
        return len(self.members) * (2 if self.mirrored else 1)


class Measure(_Errand):
    """Measure the time of models for one image, one model after another until one is fast enough; the answer is Measured or ErrandFailed.

    Every member of a variant is measured alone first. A variant is left out if its members alone take twice the limit.
    """

    kind: Literal["measure"] = "measure"
    #: folder with decoded images and features
    cache: str
    networks: tuple[TrainedNetwork, ...]
    variants: tuple[Variant, ...]
    #: limit for one image
    most_milliseconds: float


class Measured(_Errand):
    """The times of models."""

    kind: Literal["measured"] = "measured"
    #: median time for one image, for each variant; None: it was not measured
    milliseconds: tuple[float | None, ...]
    #: the same for each network alone
    alone: tuple[float, ...]


class Compare(_Errand):
    """Load an exported model as its users would, and compare its predictions; the answer is Compared or ErrandFailed."""

    kind: Literal["compare"] = "compare"
    format: Format
    #: the file or folder of the model
    path: str
    #: `Export.answers`, or `ExportCode.answers`
    answers: str
    #: for a user model: names of its inputs, and what its outputs mean; (): an image classifier
    inputs: tuple[str, ...] = ()
    outputs: tuple[Meaning, ...] = ()
    answers_mean: Answers = Answers()


class Compared(_Errand):
    """Agreement of an exported model with the original Keras model."""

    kind: Literal["compared"] = "compared"
    #: number of examples
    num_images: int
    #: largest difference between two probabilities; between two numbers: as a fraction of the largest number of their output
    max_difference: float
    #: fraction of the examples with the same predicted class or labels; 1 if no output is probabilities
    agreement: float
    #: median time for one image, after a warm-up
    milliseconds: float
    #: time to load the model
    load_seconds: float


class PredictImages(_Errand):
    """Predict image files with a bundle's model; the answer is ImagePredictions or ErrandFailed."""

    kind: Literal["predict"] = "predict"
    #: path of the Keras model
    path: str
    images: tuple[str, ...]
    #: side of the model's images in pixels, and how images become squares: `model.image_size` and `model.resize` of a study
    size: int
    resize: Literal["stretch", "crop", "pad"]
    #: values of a file that become 0 and 255, as in training; None: those of 8 or 16 bits
    value_range: tuple[float, float] | None = None


class ImagePredictions(_Errand):
    """The predictions of a model for image files."""

    kind: Literal["predicted"] = "predicted"
    #: probabilities for each file; None if it could not be read
    probabilities: tuple[tuple[float, ...] | None, ...]
    #: why each file could not be read; "" if it could
    troubles: tuple[str, ...]


#: file in `probes/` with the Keras model's prediction for each sample image
PREDICTIONS = "predictions.json"


class Verify(_Errand):
    """Measure a model from a bundle; the answer is Verified or ErrandFailed."""

    kind: Literal["verify"] = "verify"
    #: path of the Keras model
    model: str
    #: folder with the sample images
    probes: str
    #: the StudySpec as JSON, to score its test split; None: do not score it
    spec: str | None
    #: folder with decoded images
    cache: str
    is_robustness_wanted: bool
    #: maximum number of test images for robustness
    most_images: int
    answers_mean: Answers = Answers()


class Robust(_Errand):
    """The accuracy on images with one corruption; if an image has several labels or a number, the metric of the study."""

    #: name of the corruption, or fgsm
    corruption: str
    strength: float
    accuracy: float


class TestScore(_Errand):
    """The accuracy on the whole test split, and the fingerprints of the data and the splits."""

    #: NaN for numbers
    accuracy: float
    #: the metric of the study, if an image has several labels or a number
    value: float | None = None
    num_images: int
    fingerprint: str
    splits: str


class Verified(_Errand):
    """The measurements of a model."""

    kind: Literal["verified"] = "verified"
    num_probes: int
    #: sample images whose predicted class, labels or number are the recorded ones
    num_agreeing: int
    #: largest difference from a recorded probability
    max_difference: float
    #: None if the test split was not requested
    test: TestScore | None
    #: number of images for `clean` and `robust`: from the test split, or else the sample images
    num_images: int
    #: accuracy; if an image has several labels or a number, the metric of the study
    clean: float
    #: empty if robustness was not requested; without fgsm if the model has no gradient
    robust: tuple[Robust, ...]


class ModelInput(_Errand):
    """An input of a user model."""

    name: str
    #: of one example; None: any length
    shape: tuple[int | None, ...]
    dtype: str


class ModelOutput(_Errand):
    """An output of a user model."""

    name: str
    meaning: Meaning


#: file with the weights in a bundle of a user model
WEIGHTS_FILE = "model.weights.h5"


class TrainedCode(_Errand):
    """A trial of user code with its weights."""

    trial: int
    #: its values by name
    values: dict[str, Plain]
    #: .npz file
    weights: str


class MeanOfCode(_Errand):
    """Score the means of the first, the first two, … of some trials in the metric of the study; MeansMeasured or ErrandFailed."""

    kind: Literal["mean_of_code"] = "mean_of_code"
    #: the study as JSON
    spec: str
    cache: str
    #: the best first
    members: tuple[TrainedCode, ...]
    split: Literal["validation", "test"]


class MeansMeasured(_Errand):
    """The values of the means."""

    kind: Literal["means_measured"] = "means_measured"
    #: of the first member, of the mean of the first two, …; () if their predictions have no mean
    values: tuple[float, ...]
    num_examples: int
    #: why they have no mean; "" if they have one
    refused: str = ""


class ExportCode(_Errand):
    """Write the model of a trial of user code to an existing folder; the answer is ExportedCode or ErrandFailed."""

    kind: Literal["export_code"] = "export_code"
    #: the study as JSON
    spec: str
    trial: int
    #: values of the trial by name
    values: dict[str, Plain]
    #: .npz file with the weights
    weights: str
    cache: str
    formats: tuple[Format, ...]
    folder: str
    #: paths of .npz files in the bundle: a few validation examples by the names of the inputs, and the predictions by those of the outputs
    examples: str
    predictions: str
    num_examples: int
    #: path of an .npz file for Compare: arrays in_0, in_1, … and out_0, out_1, …
    answers: str
    #: maximum number of examples to compare
    num_compared: int
    #: trials whose predictions are averaged with those of `trial`, as one model
    others: tuple[TrainedCode, ...] = ()


class ExportedCode(_Errand):
    """The model is written, in every format that it has a counterpart in."""

    kind: Literal["exported_code"] = "exported_code"
    #: name of its class
    model: str
    num_parameters: int
    inputs: tuple[ModelInput, ...]
    outputs: tuple[ModelOutput, ...]
    num_compared: int
    #: the formats that were written
    written: tuple[Format, ...]
    #: why each other format could not be written
    refused: dict[Format, str]
    #: version of each installed package, by name
    packages: dict[str, str]
    #: versions of Python, Keras, TensorFlow and tuner
    versions: dict[str, str]


class PredictArrays(_Errand):
    """Predict arrays with an exported user model; the answer is ArrayPredictions or ErrandFailed."""

    kind: Literal["predict_arrays"] = "predict_arrays"
    format: Format
    path: str
    inputs: tuple[ModelInput, ...]
    outputs: tuple[str, ...]
    #: .npz file with an array for each input, by its name
    arrays: str
    #: path of an .npz file for the predictions, by the names of the outputs
    to: str


class ArrayPredictions(_Errand):
    """The predictions are written."""

    kind: Literal["predicted_arrays"] = "predicted_arrays"
    num_examples: int


class ErrandFailed(_Errand):
    """The errand failed."""

    kind: Literal["failed"] = "failed"
    message: str
    #: whether the request was wrong, so that a retry cannot succeed
    is_request: bool
    traceback: str = ""


Errand = Annotated[
    Export | Measure | Compare | PredictImages | Verify | ExportCode | PredictArrays | MeanOfCode, Field(discriminator="kind")
]
Answer = Annotated[
    Exported | Measured | Compared | ImagePredictions | Verified | ExportedCode | ArrayPredictions | MeansMeasured | ErrandFailed,
    Field(discriminator="kind"),
]
_ERRANDS: TypeAdapter[Errand] = TypeAdapter(Errand)
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)


def read_errand(text: bytes) -> Errand:
    """Return the errand that a JSON text describes."""
    return _ERRANDS.validate_json(text)


def read_answer(text: bytes) -> Answer:
    """Return the answer that a JSON text describes."""
    return _ANSWERS.validate_json(text)
