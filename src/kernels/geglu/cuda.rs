//! The operations on CUDA, each one pass over its operands: contiguous tensors of f32, bf16 and f16,
//! GELU in either form. Every input is read once, on the stream that candle computes on.
//!
//! The kernels are in `cuda/geglu.cu`, and `tests/kernels.rs` proves them without a GPU.

use super::op::Op;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Error, Layout, Result, bail};
use half::{bf16, f16};

/// A tensor as an operation receives it.
type Contiguous<'a> = (&'a CudaStorage, &'a Layout);

/// All kernels, by build.rs, for GPUs of compute capability 8.0 and later.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/geglu.ptx"));
const MODULE: &str = "gemma-mlp-geglu";

/// Threads of a thread block, as the kernels have it.
const THREADS: usize = 256;
/// Thread blocks that are started for each multiprocessor at most; every thread then goes on to the
/// next elements.
const BLOCKS: usize = 8;
/// What a thread reads at once.
const BYTES: usize = 16;

/// Whether there are kernels for a dtype, and the GPU runs them.
pub(super) fn takes(device: &CudaDevice, dtype: DType) -> bool {
    let major = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
        && attribute(device, major).is_ok_and(|major| major >= 8)
}

/// Runs the kernel of an operation, its activation and the operands' dtype. Two results lie one
/// behind the other.
pub(super) fn run(op: Op, operands: &[Contiguous]) -> Result<CudaStorage> {
    let dtype = operands[0].0.dtype();
    let kernel = kernel(op, dtype);
    match dtype {
        DType::F32 => launch::<f32>(&kernel, operands, op.outputs()),
        DType::BF16 => launch::<bf16>(&kernel, operands, op.outputs()),
        DType::F16 => launch::<f16>(&kernel, operands, op.outputs()),
        dtype => Err(Error::UnsupportedDTypeForOp(dtype, op.name())),
    }
}

/// The name of a kernel, as in `geglu_exact_bf16`. There is none for both results of
/// [`Op::ActivatedAndProduct`], which takes two operations here.
fn kernel(op: Op, dtype: DType) -> String {
    let form = match op {
        Op::GegluPair => String::new(),
        Op::Activate(activation)
        | Op::ActivateBackward(activation)
        | Op::Geglu(activation)
        | Op::ActivatedAndProduct(activation)
        | Op::GegluBackward(activation) => format!("_{activation}"),
    };
    format!("{}{form}_{}", op.name().replace('-', "_"), dtype.as_str())
}

fn launch<T: CudaDType + DeviceRepr>(
    kernel: &str,
    inputs: &[Contiguous],
    outputs: usize,
) -> Result<CudaStorage> {
    let (storage, layout) = inputs[0];
    let (device, n) = (storage.device(), layout.shape().elem_count());
    let mut slices = vec![];
    for (storage, layout) in inputs {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{kernel} takes contiguous tensors")
        };
        if end - start != n {
            bail!("{kernel} takes tensors of one size")
        }
        slices.push(storage.as_cuda_slice::<T>()?.slice(start..end));
    }
    // SAFETY: uninitialised until the kernel has run, which writes all of it and comes first on the
    // stream. Of nothing CUDA allocates nothing, and says that as an error.
    let mut out = unsafe { device.alloc::<T>((outputs * n).max(1)) }?;
    if n > 0 {
        let function = device.get_or_load_custom_func(kernel, MODULE, PTX)?;
        let config = config(device, n.div_ceil(BYTES / size_of::<T>()))?;
        let mut arguments = function.builder();
        arguments.arg(&n);
        for slice in &slices {
            arguments.arg(slice);
        }
        arguments.arg(&mut out);
        // SAFETY: the arguments are those of the kernel by its name: n as size_t, as many inputs of n
        // elements of T as the operation has, and room for `outputs` times n. It keeps to them
        // (tests/kernels.rs).
        unsafe { arguments.launch(config) }.w()?;
    }
    Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
}

/// One thread for every 16 bytes, as far as there is room for them at once.
fn config(device: &CudaDevice, packs: usize) -> Result<LaunchConfig> {
    let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let resident = BLOCKS * attribute(device, count)?.max(1) as usize;
    let blocks = packs.div_ceil(THREADS).min(resident);
    Ok(LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: 0,
    })
}

fn attribute(device: &CudaDevice, attribute: CUdevice_attribute) -> Result<i32> {
    device.cuda_stream().context().attribute(attribute).w()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activation::Activation;

    /// Every kernel that is asked for is embedded, under its name.
    #[test]
    fn all_kernels_are_there() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let mut ops = vec![Op::GegluPair];
            for form in [Activation::EXACT, Activation::TANH] {
                ops.extend([Op::Activate(form), Op::ActivateBackward(form)]);
                ops.extend([Op::Geglu(form), Op::GegluBackward(form)]);
            }
            for name in ops.into_iter().map(|op| kernel(op, dtype)) {
                assert!(PTX.contains(&format!(".visible .entry {name}(")), "{name}");
            }
        }
    }
}
