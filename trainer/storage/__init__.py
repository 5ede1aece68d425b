"""``<storage>/<run>/``: everything that is kept of a run, and its integrity."""
