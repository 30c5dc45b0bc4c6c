"""What is captured of keras-hub's Gemma 3."""

import os
import tempfile
import unittest
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
try:
    import keras_hub
except ImportError as error:
    raise unittest.SkipTest("keras-hub is not installed") from error

import numpy as np
from safetensors import safe_open

import gemma_mlp


class Keras(unittest.TestCase):
    def test_captures_every_point_and_changes_nothing(self):
        model = keras_hub.models.Gemma3Backbone(
            vocabulary_size=50,
            image_size=16,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
            intermediate_dim=24,
            head_dim=8,
            use_query_key_norm=True,
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            dtype="float32",
        )
        ids = np.arange(6, dtype="int32")[None] * 7 % 50
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        wanted = np.asarray(model(inputs))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "theirs.safetensors")
            with gemma_mlp.capture(model, path):
                hidden = model(inputs)
                model.token_embedding(hidden, reverse=True)
            with safe_open(path, "np") as file:
                names, metadata = set(file.keys()), file.metadata()
                self.assertTrue(np.array_equal(file.get_tensor("normed"), wanted))
                self.assertEqual(file.get_tensor("logits").shape, (1, 6, 50))
            self.assertEqual(len(names), 4 + 2 * 15)
            self.assertEqual((metadata["framework"], metadata["dtype"]), ("keras", "f32"))
            other = Path(folder, "none.safetensors")
            with self.assertRaisesRegex(ValueError, "no forward pass"), gemma_mlp.capture(model, other):
                pass
            self.assertFalse(other.exists())


if __name__ == "__main__":
    unittest.main()
