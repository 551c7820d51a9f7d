"""The learning rate of each step of a stage."""

import numpy as np


def cosine(num_steps: int, *, peak: float, warmup: float) -> np.ndarray:
    """The learning rate of each step (num_steps,): up in a line, then down to zero in a half cosine (SGDR, arXiv 1608.03983)."""
    num_warmup = round(num_steps * warmup)
    rising = peak * (np.arange(num_warmup) + 1) / max(num_warmup, 1)
    progress = np.arange(num_steps - num_warmup) / max(num_steps - num_warmup, 1)
    return np.concatenate([rising, peak * 0.5 * (1 + np.cos(np.pi * progress))]).astype(np.float32)
