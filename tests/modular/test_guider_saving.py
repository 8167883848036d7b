"""Guiders are written and read back, alone and with their pipelines."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers.modular_pipelines import ComponentSpec
from modular_pipelines import XLBlocks, modular_xl, run_xl
from tiny_pipelines import difference, quiet

from smoothed_energy import PerturbedAttentionGuidance, SmoothedEnergyGuidance, guidance_from_text
from smoothed_energy.modular import SmoothedEnergyGuider

SEG = SmoothedEnergyGuidance(blur="gaussian:1", scale=2.0, layers="m0", steps="begin+end")
PAG = PerturbedAttentionGuidance(scale=1.0, layers="mid", combine="project")


@pytest.mark.parametrize("given", [SEG, SEG.to_dict(), [SEG, PAG], [SEG.to_dict(), "pag"]])
def test_a_guider_is_saved_and_loaded(tmp_path, given):
    guider = SmoothedEnergyGuider(given, guidance_scale=4.0, guidance_rescale=0.5, stop=0.75)
    guider.save_pretrained(tmp_path)
    loaded = SmoothedEnergyGuider.from_pretrained(tmp_path)
    assert loaded.guidances == guider.guidances
    assert {**loaded.config, **guider.config} == {**guider.config, **loaded.config}
    assert (loaded.guidance_scale, loaded.guidance_rescale, loaded._stop) == (4.0, 0.5, 0.75)
    text = json.loads((tmp_path / "guider_config.json").read_text())["guidance"]
    assert guidance_from_text(text if isinstance(text, str) else text[0]) == SEG


def test_a_guider_can_be_made_anew_with_other_settings():
    guider = SmoothedEnergyGuider(SEG, guidance_scale=4.0)
    other = guider.new(guidance=PAG)
    assert (other.guidances, other.guidance_scale) == ((PAG,), 4.0)
    assert guider.guidances == (SEG,)
    assert "seg; " in repr(guider)


def test_a_guider_is_saved_and_loaded_with_its_pipeline(tmp_path):
    where = str(tmp_path / "guider")
    SmoothedEnergyGuider("seg; layers=mid", guidance_scale=4.0).save_pretrained(where)
    guider = ComponentSpec(
        "guider", SmoothedEnergyGuider, pretrained_model_name_or_path=where
    ).load()
    pipe = modular_xl(guider)
    expected = run_xl(pipe)
    saved = str(tmp_path / "pipeline")
    pipe.save_pretrained(saved, overwrite_modular_index=True)
    index = json.loads((tmp_path / "pipeline" / "modular_model_index.json").read_text())
    assert index["guider"][:2] == ["smoothed_energy.modular", "SmoothedEnergyGuider"]
    loaded = quiet(XLBlocks().init_pipeline(saved))
    loaded.load_components()
    assert loaded.guider.guidances == pipe.guider.guidances
    assert difference(run_xl(loaded), expected) < 1e-5


def test_layers_without_a_text_are_used_and_not_saved(tmp_path):
    chosen = SmoothedEnergyGuidance(layers=lambda layer: layer.part == "mid")
    guider = SmoothedEnergyGuider(chosen, guidance_scale=4.0)
    expected = run_xl(modular_xl(SmoothedEnergyGuider("seg; layers=mid", guidance_scale=4.0)))
    assert torch.equal(run_xl(modular_xl(guider)), expected)
    again = guider.new(guidance_scale=5.0)
    assert again.guidances == guider.guidances
    assert again.guidance_scale == 5.0
    for one in (guider, again):
        with pytest.raises(ValueError, match=r"this guider can't be saved: seg: .*predicate"):
            one.save_pretrained(str(tmp_path / "guider"))
    assert not list(tmp_path.glob("*/*.json"))


@pytest.mark.parametrize("given", [3.0, None])
def test_what_is_no_guidance_is_refused(given):
    with pytest.raises(TypeError, match="expected a text such as"):
        SmoothedEnergyGuider(given)


def test_the_package_imports_no_guiders_by_itself():
    code = "import sys, smoothed_energy as s; s.SmoothedEnergyGuidance; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "smoothed_energy.guidance" in found
    assert "smoothed_energy.modular" not in found
    assert "diffusers.guiders" not in found
