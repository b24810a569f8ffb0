"""Networks trained by gradient: the one folder of models whose files import torch when they are imported."""
