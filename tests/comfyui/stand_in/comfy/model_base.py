"""A model: a network, and what it predicts."""

import torch

from .patcher_extension import WrapperExecutor, wrappers_of


def column(sigma, like):
    return sigma if sigma.numel() == 1 else sigma.view(-1, *[1] * (like.ndim - 1))


class Discrete(torch.nn.Module):
    """The noise levels of Stable Diffusion."""

    sigma_data = 1.0

    def __init__(self):
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        shares = torch.cumprod(1 - betas, 0)
        self.register_buffer("sigmas", ((1 - shares) / shares) ** 0.5)

    def timestep(self, sigma):
        return (sigma[:, None].log() - self.sigmas.log()).abs().argmin(-1)


class EPS:
    def calculate_input(self, sigma, noise):
        return noise / (column(sigma, noise) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * column(sigma, model_input)


class V_PREDICTION(EPS):  # noqa: N801 - the name that is looked for
    def calculate_denoised(self, sigma, model_output, model_input):
        sigma = column(sigma, model_input)
        root = (sigma**2 + 1) ** 0.5
        return model_input / root**2 - model_output * sigma / root


class CONST:
    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * column(sigma, model_input)


KINDS = {
    kind.__name__: type(f"Sampling{kind.__name__}", (Discrete, kind), {})
    for kind in (EPS, V_PREDICTION, CONST)
}


class BaseModel(torch.nn.Module):
    def __init__(self, network, kind="EPS"):
        super().__init__()
        self.diffusion_model = network
        self.model_sampling = KINDS[kind]()

    def apply_model(self, x, t, c_crossattn, transformer_options, **others):
        sample = self.model_sampling.calculate_input(t, x)
        time = self.model_sampling.timestep(t).float()
        options = transformer_options
        output = WrapperExecutor(
            self.diffusion_model._forward,
            self.diffusion_model,
            wrappers_of("diffusion_model", options),
        ).execute(sample, time, context=c_crossattn, transformer_options=options)
        return self.model_sampling.calculate_denoised(t, output, x)
