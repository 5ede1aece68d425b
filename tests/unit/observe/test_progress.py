from support.points import EPOCH, POINT

from trainer import resolve
from trainer.observe.progress import Progress

CONFIG = resolve.load("seed")  # 10 epochs of 1,875 steps of 32 samples


def line(*points):
    progress = Progress(CONFIG)
    for point in points:
        progress.add(point)
    return progress.line()


def test_a_line_has_progress_loss_speed_workers_and_eta():
    assert line(POINT) == "epoch 1/10  step 1875/18750  loss 1.2346  6,000 samples/s  1 worker  ETA 1:30"


def test_an_epochs_line_has_the_loss_and_speed_of_the_epoch():
    half = {**POINT, "step": 937, "samples": 30_000, "train_loss": 2.0, "seconds": 5.0}
    end = {**EPOCH, "samples": 30_000, "train_loss": 1.0, "seconds": 10.0}
    assert "loss 1.5000" in line(half, end)
    assert "4,000 samples/s" in line(half, end)


def test_an_epoch_whose_end_was_reported_before_keeps_its_numbers():
    empty = {**EPOCH, "samples": 0, "train_loss": None, "seconds": 0.001, "samples_per_second": 0.0}
    shown = line(POINT, empty)
    assert "loss 1.2346" in shown
    assert "6,000 samples/s" in shown
    assert "test accuracy 82.34%" in shown


def test_an_epoch_that_is_only_scored_again_has_no_loss_and_no_speed():
    empty = {**EPOCH, "attempt": 2, "samples": 0, "train_loss": None, "seconds": 0.0, "samples_per_second": None}
    for shown in (line(empty), line(POINT, empty)):
        assert "loss –" not in shown
        assert "samples/s" not in shown
        assert "step 1875/18750  test loss 0.5000  test accuracy 82.34%  1 worker" in shown


def test_the_next_epoch_starts_with_its_own_numbers():
    second = {**POINT, "epoch": 2, "step": 1900, "samples": 800, "train_loss": 0.5, "seconds": 1.0}
    end = {**EPOCH, "epoch": 2, "step": 3750, "samples": 0, "train_loss": None}
    assert "loss 0.5000" in line(POINT, second, end)


def test_eta_counts_the_steps_of_this_attempt_alone():
    resumed = {**POINT, "attempt": 2, "step": 9375, "samples": 32 * 1875, "time": 5000.0}
    progress = Progress(CONFIG)
    progress.add(POINT)
    progress.add(resumed)
    assert progress.seconds_left == 50.0  # 1,875 steps took 10 s; 9,375 are left


def test_numbers_of_a_run_with_and_without_its_config():
    progress = Progress(CONFIG)
    assert progress.numbers() is None
    progress.add(POINT)
    known = progress.numbers()
    assert (known["epochs"], known["steps"], known["step"], known["seconds_left"]) == (10, 18_750, 1875, 90.0)
    of_kubectl = Progress(None)
    of_kubectl.add(POINT)
    known = of_kubectl.numbers()
    assert (known["epochs"], known["steps"], known["step"]) == (None, None, 1875)
