"""Checks of machine, Ray cluster and Kubernetes cluster before a run."""
