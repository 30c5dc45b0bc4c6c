"""What is captured of models in torch. `python -m unittest discover python/tests`"""

import hashlib
import inspect
import json
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

try:
    import torch
except ImportError as error:
    raise unittest.SkipTest("torch is not installed") from error

import tiny
from safetensors import safe_open

import gemma_mlp
from gemma_mlp.transformers import capture

try:
    import transformers
except ImportError:
    transformers = None

SCRIPT = Path(gemma_mlp.__file__).with_name("transformers.py")
LAYER = (
    *(f"attn.{part}" for part in ("input", "q", "k", "v", "output", "normed")),
    "attended",
    *(f"mlp.{part}" for part in ("input", "gate", "up", "activated", "product", "output", "normed")),
)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def gemma3(dtype=torch.float32, attention="eager", **config):
    """A random Gemma 3 of two sliding layers and a global one."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=12,
        sliding_window=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        **config,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    for name, weight in model.named_parameters():
        # So that no norm is the identity and no softmax is flat.
        weight.data.normal_(0, 0.3 if "norm" in name or "embed" in name else 1)
    return model.eval()


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "theirs.safetensors")
        self.ids = torch.arange(14).reshape(2, 7) * 3 % 50
        torch.manual_seed(0)
        self.enterContext(torch.no_grad())
        # A warning that a test does not expect fails it.
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("error")

    def assert_untouched(self, model):
        for name, module in model.named_modules():
            self.assertFalse(module._forward_hooks or module._forward_pre_hooks, name)


class AnyPort(Case):
    """A port in plain torch."""

    def test_captures_what_there_is_and_says_what_there_is_not(self):
        model = tiny.Port()
        for length in (7, 4):  # Of 4 tokens are as many as heads.
            ids = self.ids[:, :length]
            wanted = model(ids)
            rotate = tiny.apply_rotary_emb
            lacks = self.assertWarnsRegex(UserWarning, r"not captured: layers\.N\.mlp\.activated \(2×\)$")
            with lacks, gemma_mlp.capture(model, self.path, prompt="a text"):
                self.assertTrue(torch.equal(model(ids), wanted))
                self.assertIsNot(tiny.apply_rotary_emb, rotate)
            self.assertEqual(Path(lacks.filename).name, Path(__file__).name)
            self.assertIs(tiny.apply_rotary_emb, rotate)
            self.assert_untouched(model)
            dump, metadata = read(self.path)
            absent = {"attn.normed", "mlp.normed", "mlp.activated"}
            layers = {f"layers.{n}.{point}" for n in range(2) for point in LAYER if point not in absent}
            ends = {"tokens", "embedding", "hidden.0", "hidden.1", "normed", "logits"}
            self.assertEqual(dump.keys(), layers | ends)
            self.assertTrue(torch.equal(dump["tokens"], ids))
            self.assertTrue(torch.equal(dump["logits"], wanted))
            self.assertTrue(torch.equal(dump["embedding"], model.embedder(ids) * 4))
            self.assertTrue(torch.equal(dump["layers.1.attended"] + dump["layers.1.mlp.output"], dump["hidden.1"]))
            self.assertEqual(dump["layers.0.attn.v"].shape, (2, length, 1, 8))
            q, k, v = (dump[f"layers.1.attn.{part}"].transpose(1, 2) for part in "qkv")
            attention = model.backbone.blocks[1].self_attn
            scores = (q @ k.mT / 8**0.5).masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
            output = attention.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
            torch.testing.assert_close(dump["layers.1.attn.output"], output)
            self.assertEqual(metadata["framework"], "torch")
            self.assertEqual(metadata["prompt"], "a text")
            self.assertNotIn("attention", metadata)

    def test_an_exception_leaves_no_hook_and_no_file(self):
        model, rotate = tiny.Port(), tiny.apply_rotary_emb
        with self.assertRaises(ZeroDivisionError), capture(model, self.path):
            model(self.ids)
            _ = 1 / 0
        with self.assertRaises(IndexError), capture(model, self.path):
            model(self.ids + 50)
        self.assertIs(tiny.apply_rotary_emb, rotate)
        self.assert_untouched(model)
        self.assertFalse(self.path.exists())

    def test_what_cannot_be_captured_is_refused(self):
        with self.assertRaisesRegex(ValueError, "no forward pass"), capture(tiny.Port(), self.path):
            pass
        with self.assertRaisesRegex(ValueError, "Linear has no stacks"), capture(torch.nn.Linear(2, 2), self.path):
            pass
        with self.assertRaisesRegex(ValueError, "2 stacks"):
            capture(torch.nn.ModuleList([tiny.Port(), tiny.Port()]), self.path).__enter__()
        with self.assertRaisesRegex(FileNotFoundError, "there is no folder"):
            capture(tiny.Port(), self.path / "x").__enter__()
        model = tiny.Port()
        embedded = model.embedder(self.ids)
        with self.assertRaisesRegex(ValueError, "tokens=ids"), capture(model, self.path):
            model.backbone(embedded)
        self.assertFalse(self.path.exists())
        with self.assertRaisesRegex(TypeError, "not builtins.int"):
            gemma_mlp.capture(1, self.path)


@unittest.skipIf(transformers is None, "transformers is not installed")
class Gemma3(Case):
    """transformers' own Gemma 3."""

    def test_captures_every_point_and_changes_nothing(self):
        for dtype in (torch.float32, torch.bfloat16):
            for attention in ("eager", "sdpa"):
                with self.subTest(dtype=dtype, attention=attention):
                    self.check_every_point(gemma3(dtype, attention), dtype, attention)

    def check_every_point(self, model, dtype, attention):
        wanted = model(self.ids).logits
        with capture(model, self.path):
            self.assertTrue(torch.equal(model(self.ids).logits, wanted))
        self.assert_untouched(model)
        dump, metadata = read(self.path)
        layers = {f"layers.{n}.{point}" for n in range(3) for point in LAYER}
        ends = {"tokens", "embedding", "hidden.0", "hidden.1", "hidden.2", "normed", "logits"}
        self.assertEqual(dump.keys(), layers | ends)
        self.assertTrue(torch.equal(dump["tokens"], self.ids))
        self.assertTrue(torch.equal(dump["logits"], wanted))
        self.assertEqual({tensor.dtype for name, tensor in dump.items() if name != "tokens"}, {dtype})
        for name, shape in {"q": (2, 7, 4, 8), "k": (2, 7, 2, 8), "v": (2, 7, 2, 8), "input": (2, 7, 16)}.items():
            self.assertEqual(dump[f"layers.0.attn.{name}"].shape, shape, name)
        x = dump["embedding"]
        for n in range(3):
            get = {point: dump[f"layers.{n}.{point}"] for point in LAYER}
            self.check_attention(model.model.layers[n].self_attn, get, dtype)
            self.assertTrue(torch.equal(x + get["attn.normed"], get["attended"]))
            self.assertTrue(torch.equal(get["mlp.activated"] * get["mlp.up"], get["mlp.product"]))
            x = get["attended"] + get["mlp.normed"]
            self.assertTrue(torch.equal(x, dump[f"hidden.{n}"]))
        mlp = model.model.layers[0].mlp
        weights = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
        weights = b"".join(weight.float().numpy().astype("<f4").tobytes() for weight in weights)
        expected = {
            "format": "gemma-mlp-dump/1",
            "framework": "transformers",
            "framework_version": transformers.__version__,
            "device": "cpu",
            "dtype": "f32" if dtype == torch.float32 else "bf16",
            "attention": attention,
            "phase": "prefill",
            "first_mlp_sha256": hashlib.sha256(weights).hexdigest(),
        }
        self.assertEqual(expected, {key: metadata[key] for key in expected})

    def check_attention(self, attention, get, dtype):
        """Queries and keys behind norm and rotary embedding, and values, give what attention returned."""
        q, k, v = (get[f"attn.{part}"].float().transpose(1, 2) for part in "qkv")
        k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
        distance = torch.arange(7)[:, None] - torch.arange(7)
        seen = (distance >= 0) & (distance < (4 if attention.is_sliding else 7))
        weights = (q @ k.mT * 12**-0.5).masked_fill(~seen, -torch.inf).softmax(-1)
        output = (weights @ v).transpose(1, 2).flatten(2) @ attention.o_proj.weight.float().T
        got = get["attn.output"].float()
        bound = 1e-5 if dtype == torch.float32 else 2e-2
        self.assertLess(float((got - output).norm() / output.norm()), bound)

    def test_only_the_first_pass_is_captured(self):
        model = gemma3()
        with self.assertWarnsRegex(UserWarning, "holds the first of 2 forward passes"), capture(model, self.path):
            wanted = model(self.ids).logits
            model(self.ids.flip(0))
        dump, _ = read(self.path)
        self.assertTrue(torch.equal(dump["tokens"], self.ids))
        self.assertTrue(torch.equal(dump["logits"], wanted))

    def test_padding_is_said(self):
        model, mask = gemma3(), torch.ones_like(self.ids)
        with capture(model, self.path):
            model(self.ids, attention_mask=mask)
        mask[0, 0] = 0
        with self.assertWarnsRegex(UserWarning, "some positions are padding"), capture(model, self.path):
            model(self.ids, attention_mask=mask)

    def test_what_generate_computes_has_no_logits_of_the_prompt(self):
        model = gemma3()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with capture(model, self.path):
                model.generate(self.ids, max_new_tokens=3, do_sample=False)
        said = " ".join(str(warning.message) for warning in caught)
        self.assertIn("holds the first of 3 forward passes", said)
        self.assertIn("those of 1 of 7 tokens; logits_to_keep=0 is all", said)
        dump, _ = read(self.path)
        self.assertNotIn("logits", dump)
        self.assertEqual(dump["hidden.2"].shape, (2, 7, 16))

    def test_a_pass_behind_a_cache_is_called_decode(self):
        model = gemma3()
        parameters = inspect.signature(type(model).forward).parameters
        name = "cache" if "cache" in parameters else "past_key_values"  # transformers before 5.2x
        cache = model(self.ids[:, :-1], use_cache=True)[name]
        with self.assertWarnsRegex(UserWarning, "continues a cache"), capture(model, self.path):
            model(self.ids[:, -1:], **{name: cache})
        dump, metadata = read(self.path)
        self.assertEqual(metadata["phase"], "decode")
        self.assertEqual(dump["layers.2.attn.k"].shape, (2, 1, 2, 8))

    def test_logits_alone_and_a_backbone_alone(self):
        model = gemma3()
        with capture(model, self.path, logits_only=True):
            model(self.ids)
        self.assertEqual(read(self.path)[0].keys(), {"tokens", "logits"})
        lacks = self.assertWarnsRegex(UserWarning, "has no logits: the model returned none$")
        with lacks, capture(model.model, self.path):
            model.model(self.ids)
        dump, _ = read(self.path)
        self.assertNotIn("logits", dump)
        self.assertIn("normed", dump)

    def test_embeddings_need_their_ids(self):
        model = gemma3()
        embeddings = model.model.embed_tokens(self.ids)
        with self.assertRaisesRegex(ValueError, "tokens=ids"), capture(model, self.path):
            model(inputs_embeds=embeddings)
        with capture(model, self.path, tokens=self.ids):
            model(inputs_embeds=embeddings)
        dump, _ = read(self.path)
        self.assertTrue(torch.equal(dump["tokens"], self.ids))
        self.assertTrue(torch.equal(dump["embedding"], embeddings))

    def test_its_relatives(self):
        sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
        vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision |= {"image_size": 28, "patch_size": 14}
        configs = [
            (transformers.GemmaConfig(**sizes), {"attn.normed", "mlp.normed"}),
            (transformers.Gemma2Config(**sizes), set()),
            (transformers.Gemma3Config(text_config=sizes, vision_config=vision, mm_tokens_per_image=4), set()),
        ]
        for config, absent in configs:
            with self.subTest(type(config).__name__):
                auto = transformers.AutoModelForCausalLM
                if "vision_config" in config.sub_configs:
                    auto = transformers.AutoModelForImageTextToText
                model = auto.from_config(config, attn_implementation="eager").eval()
                with capture(model, self.path):
                    wanted = model(self.ids).logits
                dump, _ = read(self.path)
                self.assertTrue(torch.equal(dump["logits"], wanted))
                self.assertEqual({f"layers.1.{point}" for point in LAYER if point not in absent} - dump.keys(), set())

    def test_the_file_alone_is_a_program(self):
        """Also under its own name, beside which `import transformers` must not find it."""
        folder = self.path.parent
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gemma3().save_pretrained(folder / "model")
        (folder / "ids.json").write_text(json.dumps(self.ids[0].tolist()))
        arguments = ["model", "ids.json", "out.safetensors", "--dtype", "bf16", "--attention", "eager"]
        for name in ("transformers.py", "capture.py", "-"):
            with self.subTest(name):
                if name != "-":
                    (folder / name).write_text(SCRIPT.read_text())
                command = [sys.executable, name, *arguments]
                done = subprocess.run(command, cwd=folder, input=SCRIPT.read_text(), capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                dump, metadata = read(folder / "out.safetensors")
                self.assertEqual(dump["tokens"].tolist(), [self.ids[0].tolist()])
                self.assertEqual(dump["hidden.2"].dtype, torch.bfloat16)
                self.assertEqual((metadata["model"], metadata["attention"]), ("model", "eager"))
                (folder / "out.safetensors").unlink()
                (folder / name).unlink(missing_ok=True)


if __name__ == "__main__":
    unittest.main()
