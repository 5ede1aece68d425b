"""What every worker of a run executes. Read `loop.py` first."""
