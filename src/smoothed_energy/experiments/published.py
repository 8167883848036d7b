"""The numbers that the two papers print, to stand beside ours and never in one column with them.

References:
    | Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention
    | (Hong, NeurIPS 2024), https://arxiv.org/abs/2408.00760: Tables 1 and 2
    | [Re] Smoothed Energy Guidance for Diffusion Models (MLRC 2025): Table 3
"""

from __future__ import annotations

__all__ = ["RE_TABLE_3", "SEG_TABLE_1", "SEG_TABLE_2", "Published"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of a table in a paper: SDXL at 1024 x 1024, 30,000 samples, MS-COCO 2014 as reference.

    Args:
        label: What the paper calls it.
        fid: FID.
        clip: CLIP score, a cosine.
        lpips_vgg: LPIPS (vgg) to the unguided picture of the same seed.
        lpips_alex: LPIPS (alex) to it.
    """

    label: str
    fid: float
    clip: float | None = None
    lpips_vgg: float | None = None
    lpips_alex: float | None = None


#: Without a prompt; SAG with DDIM and scale 1, PAG with scale 3, SEG with scale 3.
SEG_TABLE_1 = (
    Published("vanilla SDXL", 129.496),
    Published("SAG", 106.683, lpips_vgg=0.706, lpips_alex=0.644),
    Published("PAG", 105.271, lpips_vgg=0.542, lpips_alex=0.472),
    Published("SEG, sigma 10", 95.316, lpips_vgg=0.522, lpips_alex=0.454),
    Published("SEG, sigma inf", 88.215, lpips_vgg=0.536, lpips_alex=0.472),
)

#: With MS-COCO captions and no CFG, scale 3.
SEG_TABLE_2 = (
    Published("vanilla SDXL", 53.423, 0.271),
    Published("sigma 1", 48.284, 0.273, 0.361, 0.295),
    Published("sigma 2", 41.784, 0.278, 0.410, 0.347),
    Published("sigma 5", 33.819, 0.285, 0.449, 0.390),
    Published("sigma 10", 29.325, 0.290, 0.472, 0.416),
    Published("sigma inf", 26.169, 0.292, 0.493, 0.440),
)

#: Without a prompt, guided in the first third of the steps.
RE_TABLE_3 = (
    Published("none", 129.4418),
    Published("EMA 0.6", 106.4188),
    Published("EMA 0.85", 105.3184),
    Published("EMA 0.95", 105.4332),
    Published("EMA 0.99", 105.6703),
    Published("Gaussian, sigma 10, kernel 3", 116.1634),
    Published("Gaussian, sigma 10, kernel 17", 110.3828),
    Published("Gaussian, sigma 10, kernel 31", 109.0687),
    Published("Gaussian, sigma 10, full kernel", 107.8214),
    Published("Gaussian, sigma inf", 107.6913),
    Published("box, alpha 0.9, kernel 5", 114.0937),
    Published("box, alpha 0.9, kernel 17", 108.2538),
    Published("box, alpha 0.9, kernel 31", 107.1481),
    Published("box, alpha 0.9, kernel 61", 107.1933),
)
