"""scripts/perf_tables.py, on machines made up here."""

import json
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import perf_tables  # noqa: E402

LIMITS = {"fma_gflops": 100.0, "bf16_gflops": 200.0, "read_gbps": 30.0, "threads": 2}
ABOUT = "Model name: Some CPU\nFlags: fpu fma avx2\nThreads: 2\nLoad: 0.1\n"


def block(tokens, ours, candle, **more):
    row = {"hidden": 64, "intermediate": 96, "weights": "f32", "tokens": tokens}
    row |= {"median_ms": ours, "cpu_ms": 2 * ours, "candle_ms": candle, "candle_cpu_ms": candle, "limit_ms": 1.0}
    return row | more


def theirs(tokens, eager, **more):
    row = {"hidden": 64, "intermediate": 96, "weights": "f32", "tokens": tokens}
    return row | {"eager_ms": eager, "eager_cpu_ms": 2 * eager} | more


def model(side, prompt, generation, load):
    prompt, generation = ({"tokens_per_s": speed, "limit": 100.0} for speed in (prompt, generation))
    return {"side": side, "dtype": "f32", "load_s": load, "prompt": prompt, "generation": generation}


class Tables(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = Path(folder.name)

    def machine(self, name, about=ABOUT, **files):
        folder = self.out / name
        folder.mkdir()
        (folder / "machine.txt").write_text(about)
        for file, content in files.items():
            file = file.replace("_", "-") + (".missing" if isinstance(content, str) else ".json")
            (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
        return perf_tables.machine(folder)

    def test_a_peer_that_is_faster_stands_in_the_first_table(self):
        machine = self.machine(
            "one",
            block={"limits": LIMITS, "rows": [block(1, 2.0, 5.0), block(4, 2.0, 1.6)]},
            block_torch={"torch": "9", "rows": [theirs(1, 2.5, compiled_ms=1.0), theirs(4, 8.0)], "failed": {}},
        )
        rows = [line for line in perf_tables.wins([machine]).splitlines() if "64x96" in line]
        self.assertEqual(
            rows,
            [
                "| The block, 64x96, f32, 4 tokens, CPU time | one | 4.00 ms | candle | 1.60 ms | 2.5 |",
                "| The block, 64x96, f32, 1 token | one | 2.00 ms | PyTorch compiled | 1.00 ms | 2.0 |",
                "| The block, 64x96, f32, 4 tokens | one | 2.00 ms | candle | 1.60 ms | 1.2 |",
            ],
        )

    def test_none_is_faster(self):
        machine = self.machine("one", block={"limits": LIMITS, "rows": [block(1, 2.0, 5.0)]})
        self.assertEqual(perf_tables.wins([machine]), "None.")

    def test_more_tokens_a_second_are_faster(self):
        run = {"limits": LIMITS, "weights": 3_400_000, "notes": [], "rows": [model("ours", 50.0, 10.0, 1.0)]}
        run["rows"] = [row | {"dtype": dtype} for row in run["rows"] for dtype in ("f32", "bf16")]
        torch = {"torch": "9", "transformers": "9", "rows": [model("PyTorch", 25.0, 20.0, 0.5)]}
        llama = [
            {"version": "some"},
            {"model_filename": "f32.gguf", "n_prompt": 512, "samples_ts": [90.0, 100.0, 500.0]},
            {"model_filename": "bf16.gguf", "n_prompt": 0, "samples_ts": [5.0]},
        ]
        ratios = {of.row[1:]: of.ratios for of in perf_tables.models(run, torch, llama)}
        self.assertEqual(ratios["prompt", "f32"], {"PyTorch": (2.0, 2.0), "llama.cpp": (0.5, 0.5)})
        self.assertEqual(ratios["generation", "f32"], {"PyTorch": (0.5, 0.5)})
        self.assertEqual(ratios["generation", "bf16"], {"llama.cpp": (2.0, 2.0)})
        self.assertEqual(ratios["loading", "f32"], {"PyTorch": (0.5, 0.5)})
        self.assertEqual(ratios["loading", "bf16"], {})

    def test_a_model_in_quantised_weights_stands_beside_the_same_file(self):
        run = {"directory": "some-q4_k_m.gguf", "limits": LIMITS, "weights": 3_400_000, "notes": []}
        run["rows"] = [model("ours", 50.0, 10.0, 1.0) | {"dtype": dtype} for dtype in ("f32", "bf16")]
        llama = [
            {"version": "some"},
            {"model_filename": "some-q4_k_m.gguf", "n_prompt": 512, "samples_ts": [25.0]},
            {"model_filename": "another.gguf", "n_prompt": 0, "samples_ts": [25.0]},
        ]
        figures = {of.row: of for of in perf_tables.models(run, None, llama, "gguf")}
        self.assertEqual(figures["some-q4_k_m", "prompt", "f32"].ratios, {"llama.cpp": (2.0, 2.0)})
        self.assertEqual(figures["some-q4_k_m", "prompt", "bf16"].ratios, {})
        self.assertEqual(figures["some-q4_k_m", "generation", "f32"].ratios, {})
        quantised = block(1, 2.0, 1.0) | {"weights": "q8_0"}
        machine = self.machine("one", quantised={"limits": LIMITS, "rows": [quantised]}, gguf=run)
        wins = perf_tables.wins([machine])
        row = "| The block in quantised weights, 64x96, q8_0, 1 token | one | 2.00 ms | candle | 1.00 ms | 2.0 |"
        self.assertIn(row, wins)
        self.assertIn("| some-q4_k_m | prompt | f32 |", perf_tables.beside("gguf", [machine]))

    def test_machines_stand_side_by_side(self):
        one = self.machine("one", block={"limits": LIMITS, "rows": [block(1, 2.0, 5.0), block(4, 2.0, 8.0)]})
        ranges = [
            {"section": "block", "row": ["64x96", "f32", "4"], "of_limit": [0.3, 0.4], "ratios": {"candle": [0.5, 2]}}
        ]
        two = self.machine("two", ranges={"limits": {"read_gbps": [20, 30]}, "rows": ranges})
        self.assertEqual(
            perf_tables.beside("block", [one, two]).splitlines(),
            [
                "| block | weights | tokens | ours, ms: one | of limit: one | of limit: two | candle / ours: one "
                "| candle / ours: two |",
                "|---|---|---|---|---|---|---|---|",
                "| 64x96 | f32 | 1 | 2.00 | 50 % |  | 2.50 |  |",
                "| 64x96 | f32 | 4 | 2.00 | 50 % | 30–40 % | 4.00 | 0.5–2 |",
            ],
        )
        self.assertIn("| The block, 64x96, f32, 4 tokens | two | candle | up to 2.0 |", perf_tables.wins([two]))
        self.assertIn("| 20–30 |", perf_tables.overview([one, two]))
        self.assertEqual(perf_tables.beside("gelu", [one, two]), "Not measured yet.")

    def test_what_was_published_of_a_row_joins_what_was_measured(self):
        rows = [{"section": "block", "row": ["64x96", "f32", "1"], "ours": [7, 8], "ratios": {"llama.cpp": [1, 2]}}]
        machine = self.machine("one", block={"limits": LIMITS, "rows": [block(1, 2.0, 5.0)]}, ranges={"rows": rows})
        (of,) = machine.figures
        self.assertEqual((of.ours, of.ratios), ((2.0, 2.0), {"candle": (2.5, 2.5), "llama.cpp": (1, 2)}))

    def test_what_is_missing_is_said(self):
        torch = {"torch": "9", "rows": [theirs(1, 9.0)], "failed": {"compiled": "no compiler"}}
        machine = self.machine(
            "one",
            about=ABOUT.replace("0.1", "3.5"),
            block={"limits": LIMITS, "rows": [block(1, 2.0, 5.0)]},
            block_torch=torch,
            model_llama="llama.cpp could not be built",
        )
        text = perf_tables.wins([machine])
        self.assertIn("None.", text)
        self.assertIn("- one: llama.cpp could not be built\n", text)
        self.assertIn("- one: PyTorch, compiled: no compiler", text)
        self.assertIn("busy: a load of 3.5", perf_tables.overview([machine]))

    def test_only_what_stands_between_the_marks_changes(self):
        machine = self.machine("one", block={"limits": LIMITS, "rows": [block(1, 2.0, 5.0)]})
        text = "Before\n\n<!-- perf: wins -->\n\nold\n\n<!-- end -->\n\nAfter\n"
        new = perf_tables.page(text, [machine], "out")
        self.assertEqual(new, text.replace("old", "None."))
        self.assertEqual(perf_tables.page(new, [machine], "out"), new)
        links = perf_tables.page(text.replace("wins", "machines"), [machine], "out")
        self.assertIn("| [one](out/one/tables.md) | Some CPU | fma avx2 |", links)
        with self.assertRaisesRegex(SystemExit, "'wind'"):
            perf_tables.page(text.replace("wins", "wind"), [machine], "out")


if __name__ == "__main__":
    unittest.main()
