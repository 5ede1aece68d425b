"""Runs ``python -m trainer``."""

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]) != Path(__file__).parents[1]:  # Python puts the working folder first
    sys.path.pop(0)  # in it, a user's own config.py or torch.py would take the place of what is installed

from trainer.cli.main import main

main()
