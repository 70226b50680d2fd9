import json

from transformers import AutoModelForCausalLM

from secateur_service.models.checkpoint import open_checkpoint
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.package import Package
from secateur_service.pruning.patterns import Unstructured
from secateur_service.spec import parse_spec
from support.models import save_corpora, save_model, spec_data
from support.passes import MIX, draw, prune


def test_a_model_whose_own_code_is_left_behind_does_not_point_at_it(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    (folder / "modeling_llama.py").write_text("raise SystemExit('ran')\n")
    corpora = save_corpora(tmp_path)
    package = Package(tmp_path / "work")
    result = prune(folder, draw(folder, *corpora, MIX), MIX, "wanda", Unstructured(0.5), package.checkpoint)
    package.add_checkpoint(
        open_checkpoint(folder), result.blocks, parse_spec(spec_data(folder, *corpora)), TensorReader()
    )
    published = json.loads((package.checkpoint / "config.json").read_text())
    assert published.keys() - config.keys() == {"secateur"}
    assert not list(package.checkpoint.glob("*.py"))
    AutoModelForCausalLM.from_pretrained(package.checkpoint, trust_remote_code=True)
