"""Train Fashion-MNIST with PyTorch on Ray: from a laptop to a cluster, with the same code."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fashion-mnist-on-ray")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
