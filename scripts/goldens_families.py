"""families/: small random checkpoints of the later Gemmas, a directory each, and what transformers makes of them.

    config.json           as transformers writes it
    config_hub.json       in the spelling of Google's files, where that is another; both were loaded, and gave the same
    model.safetensors     the weights in BF16, by their names on the Hub. With K/V sharing also the k and v tensors of
                          layers that take another layer's, which nothing reads.
    golden.safetensors    what transformers makes of them

Computed in F64 from the weights, with norms, softmaxes and routers in F64 too, RoPE's tables in F32 as transformers
has them, and eager attention and experts; stored as F32 unless said otherwise. B = 2 texts of T = 23 tokens
(EmbeddingGemma 2: 11), longer than every window. In golden.safetensors stand

    input_ids             I64 [B, T]
    hidden.{layer}        [B, T, H]   the residual stream after the layer; the final norm comes later. Gemma 3n has
                          [B, T, A·H]: its A streams side by side
    last_hidden           [B, T, H]   after the final norm
    logits                [B, T, V]   with the cap, if there is one
    logits.f32            [B, T, V]   the same computed in F32
    logits.bf16           BF16 [B, T, V]  and in BF16
    logits.exact                      in F64 with the exact GELU wherever the model has one
    loss                  F64 [1]     the mean cross-entropy of the next tokens
    grad.layers.{layer}.{weight}      the loss's gradients for the weights of MLPs, experts, per-layer-input gates and
                                      RecurrentGemma's linear_y and linear_out, by their names in the checkpoint

and beside these, or in their place,

    embedding-gemma2      output (and output.f32, …) [B, T, 14] after the last projection, in place of logits; pooled
                          [B, 14] its mean over the tokens, embedding the same of unit length; loss is the cosine
                          between the two. embedding-gemma2-full is the same model by the full model's names.
    t5gemma, t5gemma2-*   encoder_ids [B, 19], encoder_mask (1: a token, 0: padding), decoder_ids;
                          encoder.hidden.{layer}, encoder.last_hidden, grad.encoder.…, and the same of the decoder;
                          logits and loss are the decoder's. Id 60 of T5Gemma 2 is the end of an image, with an
                          embedding of its own.
    paligemma-*           token_type_ids (0: the prefix, 1: the rest), and causal.logits without them.
                          Positions start at 1.
    recurrent             restarted.logits, where the positions are restarted.positions
    diffusion-encoder     logits of the decoder's head on the encoder's last_hidden, with the cap of 30; transformers
                          reads no logits off the encoder

That a prompt into a cache, then token by token, gives the same to 1e-9 was checked where there is a cache, and is not
stored; so were each text alone, and the distances of f32, bf16 and exact, which stand in the metadata.
"""

import transformers

import goldens_embedding_gemma2
import goldens_gemma3n
import goldens_gemma4
import goldens_paligemma
import goldens_recurrent
import goldens_t5gemma
from goldens_families_common import files

FAMILIES = (
    goldens_gemma4,
    goldens_embedding_gemma2,
    goldens_gemma3n,
    goldens_t5gemma,
    goldens_recurrent,
    goldens_paligemma,
)
MODELS = {name: golden for family in FAMILIES for name, golden in family.MODELS.items()}


def compute():
    """Every file's bytes by its path under families/."""
    # What it reports is the tensors that nothing reads, which are there on purpose.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return {path: data for name, golden in MODELS.items() for path, data in files(name, golden).items()}
