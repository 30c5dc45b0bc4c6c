"""tests/goldens/families/NAME/: small random checkpoints of today's Gemmas, and what transformers makes of them."""

import sys

import goldens_embedding_gemma2
import goldens_gemma3n
import goldens_gemma4
import goldens_t5gemma
from goldens_families_common import files

MODELS = goldens_gemma4.MODELS | goldens_embedding_gemma2.MODELS | goldens_gemma3n.MODELS | goldens_t5gemma.MODELS

def compute(only=()):
    """Every file by its path under tests/goldens/families/."""
    return {
        path: data
        for name, golden in MODELS.items()
        if not only or name in only
        for path, data in files(name, golden).items()
    }

if __name__ == "__main__":
    import torch
    torch.set_num_threads(1)
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    from pathlib import Path
    out = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "families"
    for path, data in compute(sys.argv[1:]).items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
        print(path, len(data))
