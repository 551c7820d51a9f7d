"""LoadedData: the data that a user function loads, in the forms that `keras.Model.fit` takes."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import wording
from tuner.errors import DataError, TrainingError
from tuner.tasks.custom.running.values import HyperParameters, Interrupted
from tuner.trust import user_code

_NAMES = ("train", "validation", "test")
#: keys of the dict that a data function of a study with folds returns
_NAMES_WITH_FOLDS = ("train", "test", "groups")
_FORMS = "expected (train, validation) or (train, validation, test), each (x, y), a tf.data.Dataset or a keras PyDataset"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split of the data."""

    name: str
    #: arrays (x), (x, y) or (x, y, sample weights) of any nesting; None: `dataset` has the data
    arrays: tuple[Any, ...] | None
    #: a tf.data.Dataset or a PyDataset
    dataset: Any = None

    @property
    def num_examples(self) -> int:
        """Number of examples; 0 if unknown."""
        if self.arrays is not None:
            return _length(self.arrays)
        try:
            return 0 if self.dataset is None else max(0, len(self.dataset))
        except TypeError:  # it has no end, or does not know it
            return 0

    @property
    def words(self) -> str:
        """The shapes and types, in words."""
        if self.arrays is not None:
            kinds = ", ".join(f"{name} {_shapes(part)}" for name, part in zip(("x", "y", "weights"), self.arrays, strict=False))
            return f"{self.num_examples:,} examples: {kinds}"
        if isinstance(self.dataset, tf.data.Dataset):
            return f"tf.data.Dataset of {_spec(self.dataset.element_spec)}, {_batches(self.num_examples)}"
        return f"{type(self.dataset).__name__}, {_batches(self.num_examples)}"


@dataclass(frozen=True, kw_only=True)
class LoadedData:
    """The data of a trial."""

    train: Part
    #: in a study with folds, the same examples as `train`, until one fold is taken
    validation: Part
    test: Part | None
    #: the group of each example, if the data function of a study with folds returns them
    groups: NDArray[Any] | None = None
    #: the number of the fold of each example, from 0; None: the study has no folds
    folds: NDArray[np.int64] | None = None
    #: what the folds are, in words
    words_of_folds: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All splits that the data function returned."""
        own = () if self.validation.arrays is self.train.arrays is not None else (self.validation,)
        return (self.train, *own, *(() if self.test is None else (self.test,)))

    def of_fold(self, number: int) -> "LoadedData":
        """Return the data of a training in which one fold validates and all others are trained on; the test split stays out of both."""
        assert self.folds is not None, "a study with folds divides its data"
        inside = self.folds == number
        return LoadedData(train=_rows(self.train, "train", ~inside), validation=_rows(self.train, "validation", inside), test=self.test)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all arrays; of data sets, only of their forms."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part.name.encode())
            if part.arrays is None:
                digest.update(part.words.encode())
            for array in _leaves(part.arrays or ()):
                digest.update(f"{array.dtype} {array.shape}".encode())
                plain = array if array.dtype != object else array.astype(str)
                digest.update(np.ascontiguousarray(plain).view(np.uint8).data if plain.size else b"")
        return digest.hexdigest()


def needs_values(load: Callable[..., Any]) -> bool:
    """Return whether a function loads the data of one trial, load(hp), instead of those of all trials, load()."""
    try:
        parameters = inspect.signature(load).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)


def _rows(part: Part, name: str, chosen: NDArray[np.bool_]) -> Part:
    return Part(name=name, arrays=tuple(tf.nest.map_structure(lambda array: array[chosen], each) for each in part.arrays or ()))


def load(function: Callable[..., Any], hp: HyperParameters | None, *, has_folds: bool = False) -> LoadedData:
    """Return what a user function loads; with `has_folds`, the data are not divided into train and validation.

    Raises:
        DataError: it returns something else than data.
        UserCodeError: it raises an exception.
    """
    given = user_code.called(
        lambda: function() if hp is None else function(hp), doing="loading the data", passes=(Interrupted, TrainingError)
    )
    return read_undivided(given) if has_folds else read(given)


def read_undivided(given: Any) -> LoadedData:
    """Return data for a study with folds, which has no validation split of its own.

    Raises:
        DataError: it is something else.
    """
    cure = "with validation.folds, return {'train': (x, y)}, and possibly 'test' and 'groups', which has the group of each example"
    if not isinstance(given, Mapping):
        count = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise DataError(f"the data function returned a {type(given).__name__}{count}, which may have a validation split; {cure}")
    if "validation" in given:
        raise DataError(
            "the data function returned a validation split, but the study has validation.folds: each fold validates once. Return these "
            "examples as part of train, or remove the section validation from the study file"
        )
    odd = [str(name) for name in given if name not in _NAMES_WITH_FOLDS]
    if odd or "train" not in given:
        raise DataError(f"the data function returned a dict with {wording.listed(map(str, given))}; {cure}")
    train = _read_part("train", given["train"])
    if train.arrays is None:
        raise DataError(
            f"the data function returned a {type(train.dataset).__name__} as train, which cannot be divided into folds; return arrays, for "
            "example x, y = map(np.stack, zip(*dataset.unbatch().as_numpy_iterator())), or remove the section validation and return a "
            "validation split"
        )
    test = None if given.get("test") is None else _read_part("test", given["test"])
    groups = None if given.get("groups") is None else _as_arrays(given["groups"], "groups")
    if groups is not None and (not isinstance(groups, np.ndarray) or groups.shape != (train.num_examples,)):
        shape = _shapes(groups)
        raise DataError(f"the data function returned groups of the form {shape}; expected one for each of {train.num_examples:,} examples")
    return LoadedData(train=train, validation=Part(name="validation", arrays=train.arrays), test=test, groups=groups)


def read(given: Any) -> LoadedData:
    """Return data of the forms that `fit` takes.

    Raises:
        DataError: it is something else.
    """
    if isinstance(given, Mapping):
        odd = [str(name) for name in given if name not in _NAMES]
        if odd or not {"train", "validation"} <= set(given):
            raise DataError(
                f"the data function returned a dict with {wording.listed(map(str, given))}; expected train, validation and possibly test"
            )
        given = tuple(given[name] for name in _NAMES if name in given)
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        count = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise DataError(f"the data function returned a {type(given).__name__}{count}; {_FORMS}")
    parts = [_read_part(name, part) for name, part in zip(_NAMES, given, strict=False)]
    return LoadedData(train=parts[0], validation=parts[1], test=parts[2] if len(parts) == 3 else None)


def _read_part(name: str, given: Any) -> Part:
    if given is None:
        raise DataError(f"the data function returned None as {name}; {_FORMS}")
    if isinstance(given, tf.data.Dataset | keras.utils.PyDataset):
        return Part(name=name, arrays=None, dataset=given)
    if isinstance(given, Iterator):
        raise DataError(
            f"the data function returned a {type(given).__name__} as {name}, which gives each batch once, but there are many trials; "
            "return a tf.data.Dataset (tf.data.Dataset.from_generator) or a keras PyDataset"
        )
    arrays = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not 1 <= len(arrays) <= 3:
        raise DataError(f"the data function returned {len(arrays)} things as {name}; expected (x, y) or (x, y, sample_weight)")
    converted = tuple(_as_arrays(part, name) for part in arrays if part is not None)
    lengths = {len(leaf) for leaf in _leaves(converted)}
    if len(lengths) != 1:
        shapes = "; ".join(_shapes(part) for part in converted)
        raise DataError(f"the data function returned arrays of different lengths as {name}: {shapes}")
    if not lengths.pop():
        raise DataError(f"the data function returned no examples as {name}")
    return Part(name=name, arrays=converted)


def _as_arrays(given: Any, name: str) -> Any:
    if isinstance(given, Mapping):
        return {key: _as_arrays(value, name) for key, value in given.items()}
    if isinstance(given, tuple | list) and given and all(hasattr(value, "shape") for value in given):
        return tuple(_as_arrays(value, name) for value in given)
    try:
        array = np.asarray(given)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            cure = "pad them (keras.utils.pad_sequences), or return a tf.data.Dataset"
            raise DataError(f"the data function returned {name} data that is no array: its rows differ in length; {cure}") from error
        raise DataError(f"the data function returned {name} data that is no array: {error}") from error
    if array.dtype == object and not all(isinstance(value, str | bytes) for value in array.flat):
        kinds = sorted({type(value).__name__ for value in array.flat if not isinstance(value, str | bytes)})
        cure = "convert columns of other types to numbers" if hasattr(given, "columns") else "convert it with astype('float32')"
        raise DataError(f"the data function returned {name} data of objects ({wording.listed(kinds)}); expected numbers or text: {cure}")
    if array.ndim == 0:
        raise DataError(f"the data function returned a {type(given).__name__} in {name}; {_FORMS}")
    return array


class TrainBatches:
    """The batches of a training; the order of an epoch depends on the seed and the epoch only, if the data allow that."""

    def __init__(self, part: Part, *, batch_size: int, steps_per_epoch: int | None, seed: int) -> None:
        self._part, self._batch_size, self._steps_per_epoch, self._seed = part, batch_size, steps_per_epoch, seed
        #: batches of an epoch; None: their order is unknown, so that a training cannot resume in the middle of an epoch
        self.num_steps: int | None = None
        if part.arrays is not None:
            all_steps = -(-part.num_examples // batch_size)
            self.num_steps = all_steps if steps_per_epoch is None else min(steps_per_epoch, all_steps)
        elif steps_per_epoch is None and _is_plain(part.dataset):
            self.num_steps = part.dataset.num_batches

    def rest(self, epoch: Callable[[], int], *, first_step: int) -> tuple[Any, int | None]:
        """Return the batches from a step of the current epoch on, and the number of steps for `fit`.

        `epoch` returns the current epoch, counted from 0. A first step that is not 0 is only for the rest of this epoch.
        """
        if self.num_steps is None:
            return self._part.dataset, self._steps_per_epoch
        if self._part.arrays is None:
            return _OrderedBatches(self._part.dataset, seed=self._seed, epoch=epoch, first_step=first_step), None
        return self._shuffled(epoch(), first_step, self.num_steps), self.num_steps - first_step

    def _shuffled(self, first_epoch: int, first_step: int, num_steps: int) -> tf.data.Dataset:
        """Return the batches of arrays, epoch after epoch without an end."""
        arrays, count = tf.nest.map_structure(_as_tensor, _packed(self._part.arrays or ())), self._part.num_examples

        def order(epoch: Any) -> tf.data.Dataset:
            shuffled_indices = tf.random.experimental.stateless_shuffle(
                tf.range(count), seed=tf.stack([tf.cast(self._seed % 2**31, tf.int64), epoch])
            )
            return tf.data.Dataset.from_tensor_slices(shuffled_indices).batch(self._batch_size).take(num_steps)

        batches = tf.data.Dataset.range(first_epoch, 2**31).flat_map(order).skip(first_step)
        batches = batches.map(lambda rows: tf.nest.map_structure(lambda array: tf.gather(array, rows), arrays), num_parallel_calls=1)
        return batches.prefetch(2)


def _packed(arrays: tuple[Any, ...]) -> Any:
    """Return arrays in the form in which `fit` gives their batches to a user's `train_step`."""
    x, *rest = arrays
    if not rest:
        return (x,) if isinstance(x, tuple) else x
    y, *weights = rest
    if weights and tf.nest.is_nested(y) and not tf.nest.is_nested(weights[0]):
        weights = [tf.nest.map_structure(lambda _: weights[0], y)]
    return (x, y, *weights)


def _as_tensor(array: NDArray[Any]) -> tf.Tensor:
    """Return an array as `fit` gives it to a model: floating-point numbers have the default type of Keras, float32."""
    return tf.convert_to_tensor(array, keras.backend.floatx() if array.dtype.kind == "f" else None)


def _is_plain(dataset: Any) -> bool:
    """Return whether batches of a PyDataset depend on their index only, and their number is known."""
    plain = keras.utils.PyDataset
    if not isinstance(dataset, plain) or dataset.use_multiprocessing or not hasattr(dataset, "__len__"):
        return False
    changes = any(getattr(type(dataset), name) is not getattr(plain, name) for name in ("on_epoch_begin", "on_epoch_end"))
    return not changes and dataset.num_batches is not None


class _OrderedBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of a PyDataset in an order of ours."""

    def __init__(self, dataset: keras.utils.PyDataset, *, seed: int, epoch: Callable[[], int], first_step: int) -> None:
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self._dataset, self._seed, self._epoch, self._first_step = dataset, seed, epoch, first_step
        self._count = dataset.num_batches

    def __len__(self) -> int:
        return int(self._count - self._first_step)

    def __getitem__(self, index: int) -> Any:
        order = np.random.default_rng([self._seed % 2**32, self._epoch()]).permutation(self._count)
        return self._dataset[int(order[self._first_step + index])]


def batch_of(part: Part, size: int) -> tuple[Any, ...]:
    """Return the first examples of a split as arrays: (x), (x, y) or (x, y, sample weights)."""
    if part.arrays is not None:
        return tuple(tf.nest.map_structure(lambda array: array[:size], each) for each in part.arrays)
    if isinstance(part.dataset, tf.data.Dataset):
        batch = next(iter(part.dataset))
    else:
        batch = part.dataset[0]
    return batch if isinstance(batch, tuple) else (batch,)


def _leaves(given: Any) -> list[Any]:
    return list(tf.nest.flatten(given))


def _length(arrays: tuple[Any, ...]) -> int:
    return len(_leaves(arrays)[0])


def _shapes(given: Any) -> str:
    if isinstance(given, Mapping):
        return "{" + ", ".join(f"{key}: {_shapes(value)}" for key, value in given.items()) + "}"
    if isinstance(given, tuple | list):
        return "[" + ", ".join(_shapes(value) for value in given) + "]"
    return f"{tuple(given.shape)} {given.dtype}"


def _spec(given: Any) -> str:
    return ", ".join(f"{tuple(leaf.shape)} {leaf.dtype.name}" for leaf in tf.nest.flatten(given))


def _batches(count: int) -> str:
    return wording.count(count, "batch") if count else "an unknown number of batches"
