"""The probes so far into whether one more trial earns fine-tuning."""

import math
from collections.abc import Sequence


def earns_fine_tuning(value: float, *, earlier: Sequence[float], promoted: Sequence[float], share: float) -> bool:
    """Whether a probe is among the best `share` of all probes so far, itself included.

    `earlier` are the other probes, `promoted` those of them that went on. The places are `share` of the probes so far, rounded up; a probe
    goes on if fewer better ones, and fewer promoted ones at least as good, came before it: among equals only as many go on as there are
    places. Rounding up promotes too many at first, and a search that gets better promotes too many throughout; from the second on, each one
    too many takes a place away, down to one: a probe that beats all others always goes on. Over 100 probes in random order `share` of them
    go on, over 20 up to a third more; in a search that gets steadily better less than twice as many.
    """
    fair = math.ceil(share * (len(earlier) + 1) - 1e-9)
    places = max(1, fair - max(0, len(promoted) - fair - 1))
    num_better = sum(other > value for other in earlier)
    num_before = sum(other >= value for other in promoted)
    return num_better < places and num_before < places
