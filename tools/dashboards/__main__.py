"""Write the boards to helm/monitoring/dashboards: `python -m tools.dashboards`, a part of `make generate`."""

from __future__ import annotations

import json
from pathlib import Path

from tools.dashboards.goodput_cost import goodput_cost
from tools.dashboards.platform import platform
from tools.dashboards.resources import resources
from tools.dashboards.run import run
from tools.dashboards.runs import runs

FOLDER = Path(__file__).parents[2] / "helm" / "monitoring" / "dashboards"
BOARDS = {
    "runs": runs,
    "run": run,
    "resources": resources,
    "platform": platform,
    "goodput-cost": goodput_cost,
}


def main() -> None:
    """Write a file for each board; `make verify` then finds drift."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(make(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
