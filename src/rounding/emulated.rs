//! A framework's GELU and GEGLU on half-precision types as candle operations, on the CPU: tensors on a
//! GPU are brought there and back.
//!
//! GELU of a half-precision type is a function of 16 bits: it is computed once for all of them and
//! looked up.

use super::framework::Framework;
use super::half_type::HalfType;
use crate::kernels::geglu::{activate_gradient, geglu_gradients};
use crate::kernels::gelu::Gelu;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

/// A framework's GELU of a half-precision type.
#[derive(Clone, Copy)]
pub(super) struct Emulated {
    framework: Framework,
    gelu: Gelu,
    dtype: HalfType,
}

impl Emulated {
    /// Nothing where the dtype is no half-precision type, of which alone frameworks are reproduced.
    pub(super) fn of(framework: Framework, gelu: Gelu, dtype: DType) -> Option<Self> {
        HalfType::of(dtype).map(|dtype| Self { framework, gelu, dtype })
    }

    pub(super) fn activate(self, x: &Tensor) -> Result<Tensor> {
        on_cpu(x)?.apply_op1(Activate(self))?.to_device(x.device())
    }

    pub(super) fn geglu(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        on_cpu(gate)?.apply_op2(&on_cpu(up)?, Geglu(self))?.to_device(gate.device())
    }

    /// The activation of every number of the type, by its bits, as it enters the product.
    fn table(self) -> &'static [f32] {
        const TABLES: usize = Framework::ALL.len() * 2 * 2;
        static ALL: [OnceLock<Vec<f32>>; TABLES] = [const { OnceLock::new() }; TABLES];
        let Self { framework, gelu, dtype } = self;
        let index = (framework as usize * 2 + gelu as usize) * 2 + dtype as usize;
        ALL[index].get_or_init(|| (0..=u16::MAX).map(|bits| self.value(bits)).collect())
    }

    fn value(self, bits: u16) -> f32 {
        let value = self.framework.gelu(self.gelu, self.dtype, self.dtype.widen(bits));
        if self.framework.rounds_activation() { self.dtype.round(value) } else { value }
    }
}

fn on_cpu(x: &Tensor) -> Result<Tensor> {
    x.to_device(&Device::Cpu)?.contiguous()
}

struct Activate(Emulated);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate-as-framework"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (dtype, table) = (self.0.dtype, self.0.table());
        let x = dtype.slice(x, layout)?.iter();
        let y = x.map(|&x| dtype.bits(table[usize::from(x)])).collect();
        Ok((dtype.storage(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        activate_gradient(x, grad, self.0.gelu.into()).map(Some)
    }
}

struct Geglu(Emulated);

impl CustomOp2 for Geglu {
    fn name(&self) -> &'static str {
        "geglu-as-framework"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Emulated { framework, dtype, .. } = self.0;
        let table = self.0.table();
        let (gate, up) = (dtype.slice(gate, gate_layout)?, dtype.slice(up, up_layout)?);
        let product = |(&g, &u)| framework.product(dtype, table[usize::from(g)], dtype.widen(u));
        let product = gate.iter().zip(up).map(product).collect();
        Ok((dtype.storage(product), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _product: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [gate, up] = geglu_gradients(gate, up, grad, self.0.gelu.into())?;
        Ok((Some(gate), Some(up)))
    }
}
