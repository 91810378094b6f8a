"""Our networks as backbones of PaddleSeg."""
