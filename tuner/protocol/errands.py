"""What a process of its own with Keras is asked to do with a model outside of a search, and what it answers, as JSON.

Export → Exported     kept weights into a model that stands alone, in several formats
Compare → Compared    one of these formats, loaded anew, against what the model made of real images
Predict → Predicted   a bundle's model into what it makes of image files
Verify → Verified     a bundle's model into what it makes of its probes, of the test split and of images with something wrong
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tuner.spec.hyperparameters import Hyperparameters


class Format(StrEnum):
    """The forms in which a model is written."""

    KERAS = "keras"
    SAVED_MODEL = "savedmodel"
    ONNX = "onnx"
    LITERT = "litert"
    INT8 = "int8"


#: where each form lies in a bundle
PLACES = {
    Format.KERAS: "model.keras",
    Format.SAVED_MODEL: "saved_model",
    Format.ONNX: "model.onnx",
    Format.LITERT: "model.tflite",
    Format.INT8: "model.int8.tflite",
}


class _Errand(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Export(_Errand):
    """Write a model and what it makes of some images to a folder that is there; answered by Exported or Failed."""

    kind: Literal["export"] = "export"
    #: the StudySpec as JSON
    spec: str
    #: folder of decoded images and features
    cache: str
    hyperparameters: Hyperparameters
    #: .npz file of kept weights
    weights: str
    #: what logits are divided by before the softmax
    temperature: float
    formats: tuple[Format, ...]
    #: where the model goes, and the images of `probes/`
    folder: str
    num_probes: int
    #: .npz file of images (n, size, size, 3) uint8 and the model's probabilities (n, classes), for Compare
    answers: str
    #: the most images that are compared
    num_compared: int


class Sample(_Errand):
    """A validation image that lies in the bundle, and what the Keras model makes of it."""

    #: in `probes/`
    file: str
    #: its class, and the one of the highest probability
    label: str
    predicted: str
    #: in the order of the classes
    probabilities: tuple[float, ...]


class Exported(_Errand):
    """The model is written."""

    kind: Literal["exported"] = "exported"
    classes: tuple[str, ...]
    #: numbers that were trained or taken over
    num_parameters: int
    #: of each format, to write it
    seconds: dict[Format, float]
    probes: tuple[Sample, ...]
    num_compared: int
    #: each installed package with its version, by name
    packages: dict[str, str]
    #: of Python, Keras, TensorFlow, tuner
    versions: dict[str, str]


class Compare(_Errand):
    """Load a written model as its users would, and compare what it makes of images; answered by Compared or Failed."""

    kind: Literal["compare"] = "compare"
    format: Format
    #: the file or folder of the model
    path: str
    #: `Export.answers`
    answers: str


class Compared(_Errand):
    """How far a written model agrees with the Keras model that it was made from."""

    kind: Literal["compared"] = "compared"
    num_images: int
    #: largest difference of a probability
    max_difference: float
    #: part of the images whose class of the highest probability is the same
    agreement: float
    #: of one image alone, the median, once it is warm
    milliseconds: float
    #: to load it
    load_seconds: float


class PredictImages(_Errand):
    """Say what a bundle's model makes of image files; answered by Predicted or Failed."""

    kind: Literal["predict"] = "predict"
    #: the file of the Keras model
    path: str
    images: tuple[str, ...]
    #: side of the images that it takes in pixels, and how images become such squares: `model.image_size` and `model.resize` of a study
    size: int
    resize: Literal["stretch", "crop", "pad"]


class ImagePredictions(_Errand):
    """What a model makes of image files."""

    kind: Literal["predicted"] = "predicted"
    #: for each file its probabilities, or None
    probabilities: tuple[tuple[float, ...] | None, ...]
    #: for each file why it could not be read, or ""
    troubles: tuple[str, ...]


#: what the Keras model makes of each image of `probes/`, beside them
PREDICTIONS = "predictions.json"


class Verify(_Errand):
    """Measure a model that comes from elsewhere; answered by Verified or Failed."""

    kind: Literal["verify"] = "verify"
    #: the file of the Keras model
    model: str
    #: the folder of the probes
    probes: str
    #: the StudySpec as JSON, whose test split is to be scored; None: it is not at hand
    spec: str | None
    #: folder of decoded images
    cache: str
    is_robustness_wanted: bool
    #: the most test images that robustness is measured on
    most_images: int


class Robust(_Errand):
    """The accuracy on images with one thing wrong."""

    #: a corruption, or fgsm
    corruption: str
    strength: float
    accuracy: float


class TestScore(_Errand):
    """The accuracy on the whole test split, and which images these were."""

    accuracy: float
    num_images: int
    fingerprint: str
    splits: str


class Verified(_Errand):
    """What a model makes of images."""

    kind: Literal["verified"] = "verified"
    num_probes: int
    #: probes whose class of the highest probability is the one recorded
    num_agreeing: int
    #: of a probability, from the one recorded
    max_difference: float
    #: None where the data were not asked for
    test: TestScore | None
    #: on which `clean` and `robust` are measured: of the test split, or the probes
    num_images: int
    clean: float
    #: empty where it was not asked for; without fgsm where no gradient comes through the model
    robust: tuple[Robust, ...]


class ErrandFailed(_Errand):
    """The errand could not be done."""

    kind: Literal["failed"] = "failed"
    message: str
    #: whether the request was wrong, not the work
    is_request: bool
    traceback: str = ""


Errand = Annotated[Export | Compare | PredictImages | Verify, Field(discriminator="kind")]
Answer = Annotated[Exported | Compared | ImagePredictions | Verified | ErrandFailed, Field(discriminator="kind")]
_ERRANDS: TypeAdapter[Errand] = TypeAdapter(Errand)
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)


def read_errand(text: bytes) -> Errand:
    """What is asked."""
    return _ERRANDS.validate_json(text)


def read_answer(text: bytes) -> Answer:
    """What was answered."""
    return _ANSWERS.validate_json(text)
