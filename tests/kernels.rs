//! The CUDA kernels without a GPU: their source as a program for the CPU, against the truth and against the CPU's own;
//! and their PTX, where there is a compiler for it.
//!
//! The arithmetic is IEEE operations, fused where written so, on either processor; so what is proven here of results
//! holds on a GPU. What is not: launches, memory and conversions there, of which `tests/devices.rs` has the
//! tests that need one.

use crate::common::skip;
use candle_core::{Device, Result, Tensor, Var, WithDType};
use gemma_mlp::gelu::measure::{Errors, Function, Measured, measure};
use gemma_mlp::{Activation, Float, Gelu, geglu};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kernels/geglu/cuda");
/// Threads of a block.
const THREADS: usize = 256;

/// A number as its bytes.
trait Number: WithDType + Float + Measured + Default + Send + Sync {
    fn to_bytes(self, to: &mut Vec<u8>);
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn to_bytes(self, to: &mut Vec<u8>) {
                to.extend(self.to_le_bytes());
            }

            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}

number!(f32, bf16, f16);

/// The kernels as a program, if this machine has a C++ compiler.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(compile).as_deref();
    if program.is_none() {
        skip("cxx", "there is no C++ compiler, or this is not Linux");
    }
    program
}

fn compile() -> Option<PathBuf> {
    let named = std::env::var("CXX").ok();
    let compilers = named.iter().map(String::as_str).chain(["c++", "g++", "clang++"]);
    let mut compilers = compilers.filter(|c| Command::new(c).arg("--version").output().is_ok());
    let compiler = compilers.next().filter(|_| cfg!(target_os = "linux"))?;
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let host = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/host.cpp");
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-O2", "-Wall", "-Wno-unknown-pragmas", "-Werror"]);
    // What is not fused in the source is not fused.
    command.args(["-ffp-contract=off", "-fno-math-errno", "-rdynamic", "-I", SOURCE, host]);
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") {
        command.arg("-mfma"); // an instruction instead of a function
    }
    let output = command.arg("-o").arg(&program).arg("-ldl").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// How a kernel is run: on n elements of which the last `tail` are passed and returned, `shift` elements after an
/// aligned address, by so many blocks, of which the first and those from `first` on are run.
#[derive(Clone, Copy)]
struct Launch {
    n: usize,
    tail: usize,
    shift: usize,
    blocks: usize,
    first: usize,
}

impl Launch {
    fn of(n: usize) -> Self {
        Self { n, tail: n, shift: 0, blocks: 1, first: 0 }
    }
}

/// A kernel that runs.
struct Kernel {
    child: Child,
    outputs: usize,
    launch: Launch,
}

impl Kernel {
    fn start<T: Number>(
        program: &Path,
        name: &str,
        inputs: usize,
        outputs: usize,
        launch: Launch,
    ) -> Self {
        let Launch { n, tail, shift, blocks, first } = launch;
        let numbers = [size_of::<T>(), inputs, outputs, n, tail, shift, blocks, first];
        let mut command = Command::new(program);
        command.arg(format!("{name}_{}", T::NAME)).args(numbers.map(|n| n.to_string()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, outputs, launch }
    }

    fn run<T: Number>(&mut self, inputs: &[&[T]]) -> Vec<T> {
        let mut bytes = vec![];
        for input in inputs {
            assert_eq!(input.len(), self.launch.tail);
            input.iter().for_each(|x| x.to_bytes(&mut bytes));
        }
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(&bytes).and_then(|()| stdin.flush()).unwrap();
        bytes.resize(self.outputs * self.launch.tail * size_of::<T>(), 0);
        self.child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "{status}");
    }
}

/// Runs a kernel once.
fn run<T: Number>(
    program: &Path,
    name: &str,
    outputs: usize,
    launch: Launch,
    inputs: &[&[T]],
) -> Vec<T> {
    Kernel::start::<T>(program, name, inputs.len(), outputs, launch).run(inputs)
}

/// One of the four functions by its kernel, of many numbers.
struct Evaluator<T> {
    kernel: Kernel,
    function: Function,
    ones: Vec<T>,
}

impl<T: Number> Evaluator<T> {
    fn new(program: &Path, function: Function, count: usize) -> Self {
        let Function { gelu, derivative } = function;
        let (name, inputs) = if derivative {
            (format!("activate_backward_{gelu}"), 2)
        } else {
            (format!("activate_{gelu}"), 1)
        };
        let kernel = Kernel::start::<T>(program, &name, inputs, 1, Launch::of(count));
        Self { kernel, function, ones: vec![T::from_f64(1.0); count] }
    }

    fn evaluate(&mut self, x: &[T]) -> Vec<T> {
        let both = [x, &self.ones];
        self.kernel.run(if self.function.derivative { &both } else { &both[..1] })
    }
}

/// The CPU's, of the same numbers.
fn on_cpu<T: Number>(function: Function, x: &[T]) -> Vec<T> {
    let (activation, mut y) = (Activation::from(function.gelu), vec![T::default(); x.len()]);
    if function.derivative {
        activation.derivatives(x, &mut y);
    } else {
        activation.values(x, &mut y);
    }
    y
}

fn bits<T: Number>(y: &[T]) -> Vec<u64> {
    let one_nan = |y: f64| if y.is_nan() { u64::MAX } else { y.to_bits() };
    y.iter().map(|y| one_nan(y.wide())).collect()
}

/// Every bf16 and every f16: no other number of the type is nearer to the truth, and NaN and infinities go where the
/// CPU's go.
#[test]
fn halves_are_correctly_rounded() {
    fn check<T: Number>(program: &Path, all: Vec<T>) {
        for &function in Function::ALL {
            let y = Evaluator::new(program, function, all.len()).evaluate(&all);
            let errors = measure(function, &all, &y);
            assert!(errors.inputs > 63_000);
            assert_eq!(
                (errors.misrounded, errors.not_finite),
                (0, 0),
                "{function} {}: {errors:?}",
                T::NAME
            );
            assert!(bits(&y) == bits(&on_cpu(function, &all)), "{function} {}", T::NAME);
        }
    }
    let Some(program) = program() else { return };
    check::<bf16>(program, (0..=u16::MAX).map(bf16::from_bits).collect());
    check::<f16>(program, (0..=u16::MAX).map(f16::from_bits).collect());
}

/// The errors of a function of f32, one out of so many over all exponents. Values of the exact form have the CPU's bits.
fn f32_errors(program: &Path, function: Function, stride: u32) -> Errors {
    const AT_ONCE: u32 = 1 << 16;
    let mut kernel = Evaluator::<f32>::new(program, function, AT_ONCE as usize);
    let mut errors = Errors::default();
    let number = |i: u32| f32::from_bits(i * stride + i.wrapping_mul(0x9e37_79b9) % stride);
    for start in (0..=u32::MAX / stride).step_by(AT_ONCE as usize) {
        let x: Vec<f32> = (start..=start + (AT_ONCE - 1)).map(number).collect();
        let y = kernel.evaluate(&x);
        errors = errors.and(measure(function, &x, &y));
        if function == Function::ALL[0] {
            assert!(bits(&y) == bits(&on_cpu(function, &x)), "from {:e} on", x[0]);
        }
    }
    errors
}

/// Values are within an ULP, derivatives within two.
fn assert_f32(function: Function, errors: Errors) {
    println!("{function}: {errors:?}");
    assert!(errors.ulp < if function.derivative { 1.2 } else { 0.86 }, "{function}: {errors:?}");
    assert!(errors.zero < 2f64.powi(-27), "{function}: {errors:?}");
    assert_eq!(errors.not_finite, 0);
}

/// One f32 in every 256, over all exponents: 2^24 of them.
#[test]
fn f32() {
    let Some(program) = program() else { return };
    for &function in Function::ALL {
        assert_f32(function, f32_errors(program, function, 256));
    }
}

/// All 2^32: `cargo test --release --test library kernels:: -- --ignored --nocapture`, some minutes.
#[test]
#[ignore = "takes minutes"]
fn every_f32() {
    let Some(program) = program() else { return };
    std::thread::scope(|scope| {
        for &function in Function::ALL {
            scope.spawn(move || assert_f32(function, f32_errors(program, function, 1)));
        }
    });
}

/// Numbers around 0 as activations are, some far out.
fn normal<T: Number>(n: usize, seed: u64) -> Vec<T> {
    let mut rng = StdRng::seed_from_u64(seed);
    let far = |i: usize| if i.is_multiple_of(17) { 6.0 } else { 1.5 };
    (0..n).map(|i| T::from_f64(far(i) * rng.sample::<f64, _>(StandardNormal))).collect()
}

/// The step of a type at a number.
fn ulp<T: Number>(x: f64) -> f64 {
    let exponent = libm::ilogb(x).max(T::LEAST_EXPONENT);
    libm::ldexp(1.0, exponent - (T::DIGITS - 1))
}

/// A tensor of f64 with the same numbers.
fn wide<T: Number>(x: &[T]) -> Result<Tensor> {
    let x: Vec<f64> = x.iter().map(|x| x.wide()).collect();
    Tensor::new(x, &Device::Cpu)
}

/// The product and its gradients in f64, for a loss of `sum(product · grad)`.
fn in_f64<T: Number>(gelu: Gelu, gate: &[T], up: &[T], grad: &[T]) -> Result<[Vec<f64>; 3]> {
    let (gate, up) = (Var::from_tensor(&wide(gate)?)?, Var::from_tensor(&wide(up)?)?);
    let product = geglu(&gate, &up, gelu)?;
    let gradients = (&product * wide(grad)?)?.sum_all()?.backward()?;
    let gradient = |x: &Var| gradients.get(x).unwrap().to_vec1();
    Ok([product.to_vec1()?, gradient(&gate)?, gradient(&up)?])
}

/// Of a type: products, both products in one and gradients, against f64.
fn fused<T: Number>(program: &Path, bound: f64) -> Result<()> {
    let n = 5003;
    let [gate, up, grad] = [1, 2, 3].map(|seed| normal::<T>(n, seed));
    let launch = Launch { blocks: 3, ..Launch::of(n) };
    let pair = run(program, "geglu_pair", 2, launch, &[&gate, &up]);
    for (gelu, of_pair) in Gelu::ALL.iter().copied().zip(pair.chunks(n)) {
        let product = run(program, &format!("geglu_{gelu}"), 1, launch, &[&gate, &up]);
        assert!(bits(&product) == bits(of_pair), "{gelu}");
        let name = format!("geglu_backward_{gelu}");
        let gradients = run(program, &name, 2, launch, &[&gate, &up, &grad]);
        let (dgate, dup) = gradients.split_at(n);
        let truth = in_f64(gelu, &gate, &up, &grad)?;
        for (what, (ours, truth)) in [&product, dgate, dup].into_iter().zip(&truth).enumerate() {
            for (i, (&ours, &truth)) in ours.iter().zip(truth).enumerate() {
                // The derivative goes through zero, where it is good to 2^-27.
                let zero = if what == 1 { (up[i].wide() * grad[i].wide()).abs() } else { 0.0 };
                let error = (ours.wide() - truth).abs() - zero * 2f64.powi(-27);
                assert!(
                    error <= bound * ulp::<T>(truth),
                    "{gelu} {} {what} [{i}]: {ours} {truth}",
                    T::NAME
                );
            }
        }
    }
    Ok(())
}

/// Halves are rounded once; f32 after each of its up to three factors.
#[test]
fn products_and_gradients() -> Result<()> {
    let Some(program) = program() else { return Ok(()) };
    fused::<f32>(program, 2.2)?;
    fused::<bf16>(program, 0.501)?;
    fused::<f16>(program, 0.501)
}

/// The exact form in f32 is the CPU's, bit for bit, wherever the tensors lie: at no multiple of 16 bytes, with any
/// number of elements, divided among any number of threads. Nothing beyond the end is written.
#[test]
fn sizes_and_places_do_not_matter() -> Result<()> {
    let Some(program) = program() else { return Ok(()) };
    let [gate, up] = [4, 5].map(|seed| normal::<f32>(2 * 4 * THREADS + 3, seed));
    for n in [0, 1, 3, 4, 5, 127, 4 * THREADS, gate.len()] {
        let (gate, up) = (&gate[..n], &up[..n]);
        let [of_gate, of_up] = [gate, up].map(|x| Tensor::new(x, &Device::Cpu));
        let on_cpu = geglu(&of_gate?, &of_up?, Gelu::Exact)?.to_vec1::<f32>()?;
        for (shift, blocks) in [(0, 1), (0, 2), (1, 1), (3, 2), (0, 5)] {
            let launch = Launch { shift, blocks, ..Launch::of(n) };
            let product = run(program, "geglu_exact", 1, launch, &[gate, up]);
            assert!(bits(&product) == bits(&on_cpu), "{n} elements, {shift} off, {blocks} blocks");
        }
    }
    Ok(())
}

/// The last of more than 2^31 elements, 16 bytes at a time and one by one: both products, of which the second begins
/// that far in.
#[test]
fn more_elements_than_an_int_counts() {
    let Some(program) = program() else { return };
    const TAIL: usize = 4096;
    let n: usize = (1 << 31) + (1 << 20);
    let [gate, up] = [6, 7].map(|seed| normal::<bf16>(TAIL, seed));
    let alone = run(program, "geglu_pair", 2, Launch::of(TAIL), &[&gate, &up]);
    for (n, at_once) in [(n, 8), (n + 5, 1)] {
        let blocks = n.div_ceil(at_once * THREADS);
        let first = (n - TAIL) / (at_once * THREADS);
        let launch = Launch { n, tail: TAIL, shift: 0, blocks, first };
        let at_the_end = run(program, "geglu_pair", 2, launch, &[&gate, &up]);
        assert!(bits(&at_the_end) == bits(&alone), "{n} elements");
    }
}

/// nvcc, as build.rs looks for it.
fn nvcc() -> Option<PathBuf> {
    let home = std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let candidates = [std::env::var_os("NVCC").map(PathBuf::from), home, Some("nvcc".into())];
    let found = candidates.into_iter().flatten().find(|nvcc| {
        Command::new(nvcc).arg("--version").output().is_ok_and(|o| o.status.success())
    });
    if found.is_none() {
        skip("ptx", "there is no nvcc");
    }
    found
}

/// PTX for the two generations, every kernel in it, and no operation that another compiler may fuse or approximate.
#[test]
fn ptx() {
    let Some(nvcc) = nvcc() else { return };
    for architecture in ["sm_80", "sm_90"] {
        let ptx = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{architecture}.ptx"));
        let mut command = Command::new(&nvcc);
        command.arg("--options-file").arg(Path::new(SOURCE).join("nvcc.options"));
        command.args(["-ptx", &format!("-arch={architecture}"), "-o"]).arg(&ptx);
        let output = command.arg(Path::new(SOURCE).join("geglu.cu")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ptx = fs::read_to_string(ptx).unwrap();
        assert!(ptx.contains(&format!(".target {architecture}")));
        assert_eq!(ptx.matches(".visible .entry").count(), 27);
        for line in ptx.lines().map(str::trim) {
            let operation = line.split_whitespace().next().unwrap_or_default();
            let name = operation.split('.').next().unwrap_or_default();
            let float = operation.contains(".f32") || operation.contains(".f64");
            if float && ["add", "sub", "mul", "fma", "div", "rcp"].contains(&name) {
                assert!(operation.contains(".rn") && !operation.contains(".ftz"), "{line}");
            }
            assert!(
                !["mad", "ex2", "tanh", "lg2", "sin", "cos", "rsqrt", "sqrt"].contains(&name),
                "{line}"
            );
        }
        // 16 bytes at a time.
        for access in ["ld.global.v4", "st.global.v4"] {
            assert!(ptx.matches(access).count() >= 27, "{access}");
        }
    }
}
