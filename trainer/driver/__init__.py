"""One run from start to end, outside the workers: driver and controller."""
