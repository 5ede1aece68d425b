"""``python -m trainer`` is ``trainer``."""

from trainer.cli import main

main()
