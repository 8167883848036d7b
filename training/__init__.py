"""How the embedded model was made: data, autoencoder, diffusion model, measurements."""
