"""How the program is called, and what becomes of what it says: a stand-in tells what it was called with."""

import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import gemma_mlp

PROGRAM = f"""#!{sys.executable}
import json, os, pathlib, sys
names = [argument.partition("=")[2] for argument in sys.argv if argument.startswith("--map=")]
sys.stderr.write(os.environ.get("SAYS", ""))
if os.environ["CODE"] in "01" and not os.environ.get("SAYS"):
    names = [json.loads(pathlib.Path(name).read_text()) for name in names]
    print(json.dumps({{"called": sys.argv[1:], "names": names}}))
sys.exit(int(os.environ["CODE"]))
"""


class Compare(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        program = Path(folder.name, "gemma-mlp")
        program.write_text(PROGRAM)
        program.chmod(0o700)
        self.enterContext(mock.patch.dict(os.environ, {"GEMMA_MLP": str(program), "CODE": "0"}))

    def test_arguments_reach_the_program(self):
        report = gemma_mlp.compare("a.safetensors", model="google/gemma-3-270m")
        self.assertEqual(report["called"], ["compare", "--json", "--model=google/gemma-3-270m", "--", "a.safetensors"])
        report = gemma_mlp.compare(
            Path("-a"),
            "b",
            references=["c", Path("d")],
            map={"x": "hidden.0"},
            layers=[0, 3],
            allow={"logits": 2.5, r"hidden\.\d": 3},
            html="e.html",
        )
        called = [argument for argument in report["called"] if not argument.startswith("--map=")]
        expected = ["compare", "--json", "--layers=0,3", "--html=e.html", "--reference=c", "--reference=d"]
        expected += ["--allow=logits=2.5", r"--allow=hidden\.\d=3", "--", "-a", "b"]
        self.assertEqual(called, expected)
        self.assertEqual(report["names"], [{"x": "hidden.0"}])

    def test_a_difference_is_a_result_and_a_failure_an_error(self):
        with mock.patch.dict(os.environ, {"CODE": "1"}):
            self.assertIn("called", gemma_mlp.compare("a"))
        for code in "12":
            said = {"CODE": code, "SAYS": "reading a\nerror: a: no such file\n"}
            with mock.patch.dict(os.environ, said), self.assertRaisesRegex(gemma_mlp.Error, "^a: no such file$"):
                gemma_mlp.compare("a")
        with mock.patch.dict(os.environ, {"CODE": "3"}), self.assertRaisesRegex(gemma_mlp.Error, "ended with code 3"):
            gemma_mlp.compare("a")

    def test_a_program_that_is_not_there_is_said(self):
        gone = {"GEMMA_MLP": "", "PATH": ""}
        no_scripts = mock.patch("sysconfig.get_path", return_value=os.devnull)
        with mock.patch.dict(os.environ, gone), no_scripts, self.assertRaisesRegex(gemma_mlp.Error, "pip"):
            gemma_mlp.compare("a")
        with (
            mock.patch.dict(os.environ, {"GEMMA_MLP": "/no/such"}),
            self.assertRaisesRegex(gemma_mlp.Error, "/no/such"),
        ):
            gemma_mlp.compare("a")


if __name__ == "__main__":
    unittest.main()
