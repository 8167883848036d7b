"""Training-free guidance of diffusion models by smoothing the energy of self-attention."""

__version__ = "0.1.0"
