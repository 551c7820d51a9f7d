"""A survey of a folder into a commented study file."""

import json
from pathlib import Path

from tuner import errors
from tuner.data import survey

#: image sizes that are offered, each for images whose shorter side is up to the number beside it
_IMAGE_SIZES = ((96, 96), (128, 144), (160, 10**9))
#: trials and timeout for up to so many images
_BUDGETS = ((2_000, 60, "2h"), (10_000, 40, "6h"), (10**9, 30, "24h"))
#: from so many images of the largest class for one of the smallest on, weights of the classes are searched
_IMBALANCED = 3.0
#: from this relation of the sides on, squeezing an image into a square distorts it too much
_ELONGATED = 1.6

_TEXT = """\
# {name}: {num_images} images of {num_classes} classes.
# Check it with `tuner check {file}`, run it with `tuner run {file}`.
# What is left out has a default; studies/template.yaml shows every key.
name: {name}

data:
  source: folder
  path: {path}
  # parts of the images that choose the winner and that score it, once; from 2 on, numbers of images{splits}
  validation: {share}
  test: {share}

model:
  backbone: efficientnet_lite0
  # {size_reason}
  image_size: {image_size}
  # {resize_reason}
  resize: {resize}

# the study ends with whichever comes first; target: 0.97 would end it at that validation accuracy
budget:
  trials: {trials}
  timeout: {timeout}
{search}
# of the splits, the search and every trial
seed: 0
"""
_SEARCH = """
# the whole default space is searched; what is named here replaces its part of it
search:
  # the largest class has {imbalance:.0f} times the images of the smallest
  class_weights: [none, balanced]
"""


def study_file(name: str, seen: survey.Survey, path: Path | None = None) -> str:
    """A study file, complete as it stands, whose image size and budget suit what was seen.

    `path` is the folder as the file names it; the surveyed one if it is left out.
    """
    trials, timeout = next((trials, timeout) for most, trials, timeout in _BUDGETS if seen.num_images <= most)
    middle = min(seen.sizes[1]) if seen.sizes else 0
    is_elongated = seen.elongation >= _ELONGATED
    return _TEXT.format(
        name=name,
        file=f"studies/{name}.yaml",
        num_images=seen.num_images,
        num_classes=len(seen.classes),
        # a JSON string is a YAML string, whatever the path is made of
        path=json.dumps(str((path or seen.path).absolute()), ensure_ascii=False),
        splits="\n  # the folder's own validation and test sub-folders take precedence" if seen.has_splits else "",
        share=0.15 if seen.num_images <= 20_000 else 0.1,
        image_size=next(size for size, most in _IMAGE_SIZES if middle <= most),
        size_reason=f"the shorter side of the middle image has {middle} pixels; a larger size sees more and takes longer, with its square",
        resize="pad" if is_elongated else "stretch",
        resize_reason="how an image becomes a square: stretch, crop or pad"
        + ("; these are long, and squeezing would distort them" if is_elongated else ""),
        trials=trials,
        timeout=timeout,
        search=_SEARCH.format(imbalance=seen.imbalance) if seen.imbalance >= _IMBALANCED else "",
    )


def write(text: str, path: Path) -> None:
    """Write a new study file; one that is there is left alone.

    Raises:
        RequestError: the file is there already, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # exclusive: not even a file that appears this moment is overwritten
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise errors.RequestError(f"{path} is there already and is not overwritten; choose another name, or remove it") from error
    except OSError as error:
        raise errors.RequestError(f"{path} cannot be written ({error.strerror}); start tuner in a folder that you may write") from error
