"""LoadedData: the data that a user function loads, in the forms that `keras.Model.fit` takes."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner import wording
from tuner.errors import DataError, TrainingError
from tuner.tasks.custom.running.values import HyperParameters, Interrupted
from tuner.trust import user_code

_NAMES = ("train", "validation", "test")
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
    validation: Part
    test: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """All splits."""
        return (self.train, self.validation, *(() if self.test is None else (self.test,)))

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


def load(function: Callable[..., Any], hp: HyperParameters | None) -> LoadedData:
    """Return what a user function loads.

    Raises:
        DataError: it returns something else than data.
        UserCodeError: it raises an exception.
    """
    given = user_code.called(
        lambda: function() if hp is None else function(hp), doing="loading the data", passes=(Interrupted, TrainingError)
    )
    return read(given)


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


def shuffled(part: Part, *, batch_size: int, seed: int, first_step: int) -> tf.data.Dataset:
    """Return the batches of arrays from a step on, in one order after another without an end.

    An order depends on the seed and its number only, so that a resumed trial sees the same batches.
    """
    assert part.arrays is not None
    count = part.num_examples
    arrays = tf.nest.map_structure(tf.convert_to_tensor, part.arrays)

    def order(number: Any) -> tf.data.Dataset:
        shuffled_indices = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(seed % 2**31, tf.int64), number])
        )
        return tf.data.Dataset.from_tensor_slices(shuffled_indices).batch(batch_size)

    first, skipped = divmod(first_step, -(-count // batch_size))
    batches = tf.data.Dataset.range(first, 2**31).flat_map(order).skip(skipped)
    batches = batches.map(lambda indices: tf.nest.map_structure(lambda array: tf.gather(array, indices), arrays), num_parallel_calls=1)
    return batches.prefetch(2)


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
