"""A run as a RayJob on Kubernetes. Needs neither Ray nor PyTorch."""
