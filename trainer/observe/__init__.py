"""A run as people see it: in a terminal, in Prometheus, as a page."""
