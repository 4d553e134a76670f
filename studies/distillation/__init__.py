"""The distillation study: small ResNets, trained alone or with a larger teacher that was trained before."""

PRELOAD = ("sklearn.datasets", "torchvision.datasets", "PIL.Image")  # modules that it imports only when needed
