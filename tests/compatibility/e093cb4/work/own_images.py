"""Data of one's own, as `data: {source: python, ...}` names them."""

from pathlib import Path
from typing import Any

import numpy as np


def load() -> tuple[Any, Any, list[str]]:
    with np.load(Path(__file__).with_name("images.npz")) as arrays:
        return arrays["x"], arrays["y"], [str(name) for name in arrays["classes"]]
