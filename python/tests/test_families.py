"""transformers' own models of today's families agree with ours, in f32 and in bf16."""

import os
import tempfile
import unittest
from pathlib import Path

try:
    import torch
    import transformers
except ImportError as error:
    raise unittest.SkipTest("torch or transformers is not installed") from error

import gemma_mlp
from gemma_mlp.transformers import DTYPES, capture, load

GOLDENS = Path(__file__).resolve().parents[2] / "tests/goldens/families"
MODELS = (
    "gemma4-dense",
    "gemma4-e4b",
    "gemma4-e2b",
    "gemma4-moe",
    "gemma4-unified",
    "gemma3n-a",
    "gemma3n-b",
    "embedding-gemma2",
)


@unittest.skipUnless(hasattr(transformers, "EmbeddingGemma2Model"), "transformers is older than these families")
@unittest.skipUnless("GEMMA_MLP" in os.environ, "GEMMA_MLP does not name the program")
class Families(unittest.TestCase):
    def test_they_agree(self):
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        ids = torch.tensor([[(7 * i + i * i % 13) % 64 for i in range(30)]])
        for name in MODELS:
            for dtype in ("f32", "bf16"):
                with self.subTest(name, dtype=dtype), tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "theirs.safetensors"
                    model, options = load(GOLDENS / name, DTYPES[dtype], "eager")
                    with torch.no_grad(), capture(model, path):
                        model(ids, **options)
                    report = gemma_mlp.compare(path, model=GOLDENS / name)
                    self.assertTrue(report["agrees"], report["verdict"])
                    # The layers are compared on their own input, each point of them.
                    points = {point["point"] for layer in report["layers"] for point in layer["points"]}
                    self.assertLessEqual({"attn.output", "mlp.activated", "hidden"}, points)
                    if name == "gemma4-moe":
                        self.assertLessEqual({"experts.probabilities", "experts.weights", "experts.output"}, points)
                    elif name not in ("gemma4-dense", "gemma4-unified"):
                        self.assertLessEqual({"per_layer.gate", "per_layer.product", "per_layer.output"}, points)

    def test_a_mistake_behind_shared_keys_shows_where_it_is(self):
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        ids = torch.tensor([[(7 * i + i * i % 13) % 64 for i in range(30)]])
        for name, layer in (("gemma4-e4b", -1), ("gemma3n-b", -1), ("embedding-gemma2", 2)):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "theirs.safetensors"
                model, options = load(GOLDENS / name, torch.float32, "eager")
                layers = getattr(getattr(model, "model", model), "layers", None)
                layers = model.model.language_model.layers if layers is None else layers
                layers[layer].mlp.act_fn = torch.nn.GELU()
                with torch.no_grad(), capture(model, path):
                    model(ids, **options)
                report = gemma_mlp.compare(path, model=GOLDENS / name)
                self.assertEqual(report["first"]["layer"], layer % len(layers))
                self.assertEqual(report["first"]["point"], "mlp.activated")
                self.assertIn("exact", report["causes"][0]["name"])


if __name__ == "__main__":
    unittest.main()
