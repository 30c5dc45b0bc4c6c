"""What the capture of llama.cpp refuses: a model to run takes a GGUF."""

import tempfile
import unittest
from pathlib import Path

try:
    import llama_cpp  # noqa: F401
except ImportError as error:
    raise unittest.SkipTest("llama-cpp-python is not installed") from error

from gemma_mlp.llama_cpp import capture, read_ids


class LlamaCpp(unittest.TestCase):
    def test_what_cannot_be_captured_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path, model = Path(folder, "theirs.safetensors"), Path(folder, "model.gguf")
            model.write_bytes(b"GGUF")
            with self.assertRaisesRegex(ValueError, "llama.cpp cannot load it"):
                capture(model, [2, 5], path)
            with self.assertRaisesRegex(FileNotFoundError, "there is no folder"):
                capture(model, [2, 5], path / "x")
            self.assertFalse(path.exists())
            for odd in ("[]", "{}", '["2"]', "[true]"):
                ids = Path(folder, "ids.json")
                ids.write_text(odd)
                with self.assertRaisesRegex(ValueError, "not a JSON array of token ids"):
                    read_ids(ids)


if __name__ == "__main__":
    unittest.main()
