"""What a run may cost: it warns when it is going to cost more, and can end when it has cost that much."""

from __future__ import annotations

import time

from trainer.config import Config
from trainer.driver import interrupts
from trainer.errors import BudgetError
from trainer.observe import cost
from trainer.observe.progress import Progress
from trainer.storage.record import Record


class Guard:
    """Compares what a run costs with its budget, each time that `check` is called."""

    def __init__(self, record: Record, config: Config, prices: cost.Prices | None, budget: cost.Budget | None):
        self._record = record
        self._config = config
        self._prices = prices
        self._budget = budget
        self._warned = False
        self._spent_at: float | None = None

    def check(self) -> None:
        """Warn if the run is going to cost more than it may; if it is to end when it has, end it after a checkpoint."""
        now = time.time()
        spent = cost.of_run(self._record, self._prices, now) if self._budget is not None else None
        if spent is None or self._budget is None:
            return
        points = self._record.points()
        progress = Progress(self._config)
        for point in points:
            progress.add(point)
        amount, currency = self._budget.amount, spent["currency"]
        going_to_cost = spent["total"] + spent["per_hour"] * (progress.seconds_left or 0.0) / cost.HOUR_S
        if going_to_cost > amount and not self._warned:
            self._warned = True
            then = "it ends when that is spent" if self._budget.stop else "it continues"
            self._record.add_event(
                {
                    "event": "warning",
                    "message": f"budget: the run is going to cost {going_to_cost:.2f} {currency}, and its budget is "
                    f"{amount:g} {currency}; {then}",
                }
            )
        if not self._budget.stop or spent["total"] < amount:
            return
        if self._spent_at is None:
            self._spent_at = now
        if any(point.get("checkpoint_at", 0.0) >= self._spent_at for point in points):
            interrupts.give_up(
                BudgetError(
                    f"budget: the run has cost {spent['total']:.2f} {currency} of {amount:g} {currency}; it stopped "
                    "after a checkpoint",
                    "raise budget.amount in the values of helm/training, and submit it again: it resumes",
                )
            )
