//! The GPU, if there is one.

use crate::error::NoGpu;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The first GPU of this machine, on which something has been computed; or why there is none to
/// compute on, in one line.
///
/// That is a CUDA GPU with the feature `cuda`, a Metal one with `metal`. Where CUDA's libraries are
/// opened at run time and are missing, the attempt panics inside: nothing comes of it but what the
/// panic hook prints.
///
/// ```
/// use candle_core::Device;
/// let device = gemma_mlp::device::gpu().unwrap_or(Device::Cpu);
/// ```
///
/// # Errors
/// The reason: built for none, no library, no driver, no GPU, or one that this build has no kernels
/// for.
pub fn gpu() -> std::result::Result<Device, NoGpu> {
    if !IS_POSSIBLE {
        return Err(NoGpu("built without the features cuda and metal".into()));
    }
    let device = catch_unwind(AssertUnwindSafe(first)).unwrap_or_else(|cause| {
        let message = cause.downcast_ref::<String>().map(String::as_str);
        bail!("{}", message.or(cause.downcast_ref().copied()).unwrap_or("a library is missing"))
    });
    device.map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        // What follows are the names of a library that were tried.
        NoGpu(line.split(" - searched").next().unwrap_or_default().to_string())
    })
}

/// Whether this crate was built for any GPU.
pub const IS_POSSIBLE: bool = cfg!(any(feature = "cuda", feature = "metal"));

fn first() -> Result<Device> {
    let device = if cfg!(feature = "cuda") { Device::new_cuda(0)? } else { Device::new_metal(0)? };
    // Kernels may be for another generation.
    (Tensor::ones(1, DType::F32, &device)? + 1.0)?.to_vec1::<f32>()?;
    Ok(device)
}

/// What to call a device: `CPU`, `CUDA: NVIDIA H200`, `Metal`.
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => "CPU".into(),
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let name = cuda.cuda_stream().context().name();
            format!("CUDA: {}", name.unwrap_or_else(|_| "a GPU without a name".into()))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => "CUDA".into(),
        Device::Metal(_) => "Metal".into(),
    }
}
