"""What a port's own tests do with `gemma_mlp.compare`, on a dump called `theirs`, of an exact GELU."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import gemma_mlp

report = gemma_mlp.compare("theirs", html="report.html")
assert not report["agrees"] and report["causes"][0]["name"] == "GELU: exact (erf)", report["verdict"]
assert (report["first"]["layer"], report["first"]["point"]) == (0, "mlp.activated")
assert Path("report.html").is_file()

report = gemma_mlp.compare("theirs", allow={".": 1e9}, layers=[0, 2])
assert report["agrees"] and [layer["index"] for layer in report["layers"]] == [0, 2], report["verdict"]

# Names of one's own, and a file that something else has written.
tensors = load_file("theirs")
save_file({"ids": tensors["tokens"], "end": np.ascontiguousarray(tensors["hidden.0"])}, "mine.safetensors")
report = gemma_mlp.compare("mine.safetensors", map={"ids": "tokens", "end": "hidden.0"})
assert report["first"]["layer"] == 0 and report["first"]["point"] == "hidden", report["verdict"]
assert gemma_mlp.compare("theirs", "theirs")["agrees"]

try:
    gemma_mlp.compare("not-there")
except gemma_mlp.Error as error:
    assert "not-there" in str(error)
else:
    raise AssertionError("a file that is not there is no difference")
