"""The Grafana dashboards of helm/monitoring: a module for each board, written as JSON by `make generate`."""
