//! Frameworks whose arithmetic of GEGLU on a half-precision type is reproduced.

use super::half_type::HalfType;
use super::{candle_cuda, cuda, jax, llama_cpp, pytorch};
use crate::kernels::gelu::Gelu;
use std::fmt;

/// How a framework computes `gelu(gate) ⊙ up` on bf16 and f16: where it rounds, and with which
/// polynomials.
///
/// Only GELU on a half-precision type is reproduced. Other activations are this crate's own, rounded
/// to the type before the product if the framework rounds GELU there; f32 and f64 have this crate's
/// own functions, but for llama.cpp's table, which is of f16 whatever the model's type. Gradients are the analytic ones whatever the framework's are.
///
/// ```
/// use gemma_mlp::Framework;
/// assert_eq!(Framework::from_name("transformers"), Some(Framework::PyTorch));
/// assert!(Framework::Jax.is_proven() && !Framework::FlashInfer.is_proven());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framework {
    /// PyTorch on the CPU, and transformers, which calls it: `F.gelu` in f32, rounded, then the
    /// product, rounded.
    ///
    /// **Proven** bit for bit against PyTorch 2.15.0 and transformers 5.23.0 on a processor with
    /// AVX-512 and its bf16 instructions, default settings: every bf16 and every f16, both forms,
    /// activation and product. `aten/src/ATen/native/cpu/Activation.cpp`.
    ///
    /// The exact form of bf16 is oneDNN's there. On processors without AVX-512 it is PyTorch's own,
    /// with other bits for 24 inputs between -5.35 and -3.5, for subnormal results and for inputs
    /// from 1.7e38 on; with AVX-512 but no bf16 instructions, for subnormal results. What PyTorch
    /// computes without vectors, with the C library's functions, is not reproduced: tensors that are
    /// not contiguous, and the last elements of a thread's part if that is no multiple of 64.
    PyTorch,
    /// JAX on the CPU under jit: rounded after every operation, all but one before the exact form's
    /// erfc on bf16; bf16's subnormal numbers are 0.
    ///
    /// **Proven** bit for bit against JAX and jaxlib 0.10.2 on x86-64: every bf16 and every f16, both
    /// forms, activation and product. `jax/_src/nn/functions.py`.
    Jax,
    /// candle on CUDA: every operation rounded, in another order than candle on the CPU, and with
    /// the normal distribution function in place of erf. `candle` itself is
    /// [`Rounding::EveryOp`](super::Rounding::EveryOp).
    ///
    /// **Read from source, not run**: candle-kernels 0.11.1, `src/unary.cu`.
    CandleCuda,
    /// PyTorch on CUDA, and vLLM's and Liger's kernels: the activation in f32 and rounded, then the
    /// product, rounded.
    ///
    /// **Read from source, not run**: PyTorch's `aten/src/ATen/native/cuda/ActivationGeluKernel.cu`
    /// (043e4c88), vLLM's `csrc/activation_kernels.cu` (00ccbd42), Liger's
    /// `src/liger_kernel/ops/geglu.py` (15a5210a).
    PyTorchCuda,
    /// FlashInfer: activation and product in f32, rounded once.
    ///
    /// **Read from source, not run**: `include/flashinfer/activation.cuh` (162d9afc),
    /// `flashinfer/jit/activation.py` (0ed8d041).
    FlashInfer,
    /// llama.cpp on the CPU: the tanh form from a table of f16, the exact form and the product in
    /// f32; the product is rounded to the side's type, which llama.cpp itself does not do.
    ///
    /// The table is **proven** bit for bit against ggml of llama-cpp-python 0.3.36, built for a processor with FMA; without
    /// FMA one of its entries, that of -1.999, has another bit. The exact form is **read from source, not run**:
    /// `ggml/src/ggml-cpu/vec.h` (08512d75).
    LlamaCpp,
}

impl Framework {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::PyTorch,
        Self::Jax,
        Self::CandleCuda,
        Self::PyTorchCuda,
        Self::FlashInfer,
        Self::LlamaCpp,
    ];

    /// The accepted names. The first of each is its own, the others are frameworks with its bits.
    pub const NAMES: &'static [(&'static str, Self)] = &[
        ("pytorch", Self::PyTorch),
        ("transformers", Self::PyTorch),
        ("jax", Self::Jax),
        ("candle-cuda", Self::CandleCuda),
        ("pytorch-cuda", Self::PyTorchCuda),
        ("vllm", Self::PyTorchCuda),
        ("liger", Self::PyTorchCuda),
        ("flashinfer", Self::FlashInfer),
        ("llama.cpp", Self::LlamaCpp),
    ];

    /// The framework with a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, framework)| *framework)
    }

    /// Our own name, which [`fmt::Display`] prints too.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, framework)| *framework == self).map_or("", |(name, _)| name)
    }

    /// Whether every bit was compared with what the framework itself computes. The others are read
    /// from source.
    pub fn is_proven(self) -> bool {
        matches!(self, Self::PyTorch | Self::Jax)
    }

    /// Whether the activation is rounded to the type before it is multiplied.
    pub(super) fn rounds_activation(self) -> bool {
        !matches!(self, Self::FlashInfer | Self::LlamaCpp)
    }

    /// GELU of a number of a half-precision type, before it is rounded to that for the product or not.
    pub(super) fn gelu(self, gelu: Gelu, dtype: HalfType, x: f32) -> f32 {
        match (self, gelu, dtype) {
            (Self::PyTorch, Gelu::Tanh, _) => pytorch::tanh(x),
            (Self::PyTorch, Gelu::Exact, HalfType::F16) => pytorch::exact(x),
            (Self::PyTorch, Gelu::Exact, HalfType::Bf16) => pytorch::exact_bf16(x),
            (Self::Jax, Gelu::Tanh, _) => jax::gelu_tanh(x, dtype),
            (Self::Jax, Gelu::Exact, _) => jax::gelu_exact(x, dtype),
            (Self::CandleCuda, Gelu::Tanh, _) => candle_cuda::tanh(x, dtype),
            (Self::CandleCuda, Gelu::Exact, _) => candle_cuda::exact(x, dtype),
            (Self::PyTorchCuda | Self::FlashInfer, Gelu::Tanh, _) => cuda::tanh(x),
            (Self::PyTorchCuda | Self::FlashInfer, Gelu::Exact, _) => cuda::exact(x),
            (Self::LlamaCpp, Gelu::Tanh, _) => llama_cpp::tanh(x),
            (Self::LlamaCpp, Gelu::Exact, _) => llama_cpp::exact(x),
        }
    }

    /// The product's bits.
    pub(super) fn product(self, dtype: HalfType, activation: f32, up: f32) -> u16 {
        match self {
            Self::Jax => dtype.bits(jax::product(activation, up, dtype)),
            _ => dtype.bits(activation * up),
        }
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
