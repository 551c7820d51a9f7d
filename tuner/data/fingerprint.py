"""A Dataset into one short name for its whole content."""

import hashlib
import json

from tuner.data import dataset


def fingerprint(data: dataset.Dataset) -> str:
    """SHA-256 in hex over every image, label and class name; the same wherever the files lie and whatever their names and order."""
    names = json.dumps(data.classes).encode()
    return hashlib.sha256(names + dataset.content_hash(data.digests, data.labels)).hexdigest()
