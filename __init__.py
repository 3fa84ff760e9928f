"""outgrow: track ML experiments on one platform, move their whole history to another."""

__version__ = "0.1.0"
