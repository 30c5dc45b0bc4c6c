"""What is captured of models in flax.linen: here one of a layer, with some of DeepMind's module names."""

import os
import tempfile
import unittest
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
try:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise unittest.SkipTest("flax is not installed") from error

import numpy as np
from safetensors import safe_open

import gemma_mlp


class Scale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.normal(1.0), x.shape[-1:])


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.normal(1.0), (8, 8))


class Layer(nn.Module):
    def setup(self):
        self.pre_ffw_norm, self.mlp = Scale(), Mlp()

    def __call__(self, cache, x):
        return cache, x + self.mlp(self.pre_ffw_norm(x))


class Embedder(nn.Module):
    def setup(self):
        self.table = self.param("table", nn.initializers.normal(1.0), (50, 8))

    def encode(self, ids):
        return self.table[ids]

    def decode(self, x):
        return x @ self.table.T


class Port(nn.Module):
    def setup(self):
        self.embedder, self.layer_0, self.final_norm = Embedder(), Layer(), Scale()

    def __call__(self, tokens):
        _, x = self.layer_0(None, self.embedder.encode(tokens))
        return self.embedder.decode(self.final_norm(x))


class Jax(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "theirs.safetensors")
        self.ids = jnp.arange(6)[None] * 7 % 50
        self.model = Port()
        self.variables = self.model.init(jax.random.key(0), self.ids)

    def test_captures_the_first_pass_and_changes_nothing(self):
        wanted = self.model.apply(self.variables, self.ids)
        lacks = self.assertWarnsRegex(UserWarning, r"not captured: .*layers\.0\.mlp\.gate")
        with lacks, gemma_mlp.capture(self.model, self.path, prompt="a text") as dump:
            got = self.model.apply(self.variables, tokens=self.ids)
            self.model.apply(self.variables, self.ids[:, ::-1])
        self.assertEqual(Path(lacks.filename).name, Path(__file__).name)
        self.assertNotIn("apply", vars(self.model))
        self.assertTrue((wanted == got).all())
        with safe_open(self.path, "np") as file:
            names, metadata = set(file.keys()), file.metadata()
            self.assertTrue(np.array_equal(file.get_tensor("logits"), wanted))
            self.assertTrue(np.array_equal(file.get_tensor("tokens"), self.ids))
        points = {"attended", "mlp.input", "mlp.output"}
        ends = {"tokens", "embedding", "hidden.0", "normed", "logits"}
        self.assertEqual(names, ends | {f"layers.0.{point}" for point in points})
        self.assertEqual(names, dump.keys())
        self.assertEqual((metadata["framework"], metadata["dtype"], metadata["prompt"]), ("jax", "f32", "a text"))

    def test_what_cannot_be_captured_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no model.apply ran"), gemma_mlp.capture(self.model, self.path):
            pass
        with self.assertRaises(ZeroDivisionError), gemma_mlp.capture(self.model, self.path):
            self.model.apply(self.variables, self.ids)
            _ = 1 / 0
        mlp = Mlp()
        with self.assertRaisesRegex(ValueError, "layer_0"), gemma_mlp.capture(mlp, self.path):
            mlp.apply({"params": {"w": jnp.eye(8)}}, jnp.ones((1, 8)))
        with self.assertRaisesRegex(FileNotFoundError, "there is no folder"):
            gemma_mlp.capture(self.model, self.path / "x").__enter__()
        self.assertNotIn("apply", vars(self.model))
        self.assertFalse(self.path.exists())


if __name__ == "__main__":
    unittest.main()
