"""Which graphs are traced, and which are used again."""

from tuner.hyperparameters import Augmentation, Features, Hyperparameters
from tuner.training import augmentation, steps, updates
from tuner.training import bench as benches


def test_a_graph_is_made_once_and_the_latest_are_kept(bench: benches.Bench) -> None:
    kept, cut = steps.Steps(), bench.backbone.cut(2)
    first = kept.above(cut, Features.LAST)
    assert kept.above(bench.backbone.cut(2), Features.LAST) is first
    others = [kept.above(bench.backbone.cut(count), kind) for count in (0, 1) for kind in Features]
    assert len({id(other) for other in [first, *others]}) == 5
    assert kept.above(cut, Features.LAST) is not first
    assert kept.above(bench.backbone.cut(1), Features.LAST) is others[2]


def test_values_are_no_part_of_a_form() -> None:
    one = Hyperparameters(learning_rate=1e-3, dropout=0.1, head_units=(8,), ema=0.9, batch_size=16)
    other = Hyperparameters(learning_rate=1e-2, dropout=0.0, head_units=(99,), ema=0.5, batch_size=64, weight_decay=0.5, layer_decay=0.7)
    assert steps.Form.of(one, num_open=1, num_classes=3) == steps.Form.of(other, num_open=1, num_classes=3)
    assert updates.Form.of(one, num_open=1) == updates.Form.of(other, num_open=1)
    weak, strong = Augmentation(rotation=0.1, mixup=0.1), Augmentation(zoom=0.5, mixup=0.5)
    assert augmentation.Changes.of(weak) == augmentation.Changes.of(strong)


def test_half_of_what_was_too_much_is_worked_on_at_once() -> None:
    kept, form = steps.Steps(), steps.Form.of(Hyperparameters(), num_open=1, num_classes=3)
    assert kept.part(form, 32) == 32
    kept.halve(form, 32)
    kept.halve(form, kept.part(form, 32))
    assert (kept.part(form, 32), kept.part(form, 4)) == (8, 4)
