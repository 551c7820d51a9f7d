"""A small transformer on text: from which package of Python's library is a docstring?

tuner run examples/docstrings.yaml
"""

import ast
import re
import sysconfig
from collections import Counter
from pathlib import Path

import keras
import numpy as np

PACKAGES = ("asyncio", "email", "unittest")
NUM_WORDS, LENGTH = 500, 24


def docstrings(package):
    """Return the docstrings of a package of Python's library."""
    files = sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py"))
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, kinds))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def load():
    """Return train and validation as (numbers of words (n, LENGTH), package (n,))."""
    labelled = [(re.findall(r"[a-z]+", text.lower()), label) for label, name in enumerate(PACKAGES) for text in docstrings(name)]
    common = Counter(word for words, _ in labelled for word in words).most_common(NUM_WORDS - 2)
    number = {word: place + 2 for place, (word, _) in enumerate(common)}  # 0: nothing, 1: a rare word
    x = np.zeros((len(labelled), LENGTH), dtype=np.int32)
    for row, (words, _) in zip(x, labelled, strict=True):
        row[: len(words)] = [number.get(word, 1) for word in words[:LENGTH]]
    y = np.array([label for _, label in labelled])
    order = np.random.default_rng(0).permutation(len(x))
    train, validation = np.split(order, [int(0.8 * len(x))])
    return (x[train], y[train]), (x[validation], y[validation])


def build(hp):
    """Return a transformer; the code asks for the values that it needs, as for KerasTuner."""
    width = hp.Int("width", 16, 64, step=16)
    tokens = keras.layers.Input((LENGTH,), dtype="int32")
    places = keras.ops.arange(LENGTH)
    hidden = keras.layers.Embedding(NUM_WORDS, width)(tokens) + keras.layers.Embedding(LENGTH, width)(places)
    for _ in range(hp.Int("blocks", 1, 2)):
        attended = keras.layers.MultiHeadAttention(num_heads=hp.Choice("heads", [1, 2, 4]), key_dim=16)(hidden, hidden)
        hidden = keras.layers.LayerNormalization()(hidden + attended)
        hidden = keras.layers.LayerNormalization()(hidden + keras.layers.Dense(width, activation="relu")(hidden))
    pooled = keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5))(keras.layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model(tokens, keras.layers.Dense(len(PACKAGES), activation="softmax")(pooled))
    rate = hp.Float("learning_rate", 3e-4, 3e-2, sampling="log")
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
