"""Points of a run, as the record has them."""

from trainer.storage.schema import Point

POINT: Point = {
    "time": 1010.0,
    "attempt": 1,
    "workers": 1,
    "epoch": 1,
    "step": 1875,
    "learning_rate": 0.001,
    "train_loss": 1.23456,
    "samples": 60_000,
    "seconds": 10.0,
    "saving_seconds": 0.0,
    "samples_per_second": 6000.0,
}
EPOCH: Point = {**POINT, "test_loss": 0.5, "test_accuracy": 0.8234, "evaluation_seconds": 0.5}
