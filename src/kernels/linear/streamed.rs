//! Weights of a model that is larger than memory: those of a layer are read when the first of them is needed, and those
//! of the next one meanwhile.

use super::matrix::Matrix;
use super::panels::Data;
use candle_core::Result;
use std::cell::RefCell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::{fmt, mem, thread};

thread_local! {
    /// What the layer that is made right now belongs to.
    static OF_LAYER: RefCell<Option<Streamed>> = const { RefCell::new(None) };
}

/// The weights of a model's layers, in a file. Those of one layer are in memory, and those of the next one as far as they
/// have been read. Cloning shares them.
///
/// A layer is read by a thread of its own, beside whatever computes: in the order in which its weights were made, which
/// is that in which they are used. Behind the last layer comes the first again. Who needs what has not been read yet
/// reads it itself.
#[derive(Clone)]
pub(crate) struct Streamed(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something was read, or could not be.
    read: Condvar,
    /// The layers to be read ahead. The thread ends when this is gone.
    ahead: OnceLock<Sender<usize>>,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    layers: usize,
    /// The layer in use.
    current: Option<usize>,
    /// Whether most of what is read on demand alone was needed in the layer before.
    all_in_demand: bool,
}

struct Item {
    /// One stream of them.
    matrices: Arc<[Vec<Matrix>; 1]>,
    layer: usize,
    /// Whether it is one of several of which few may be needed: an expert.
    on_demand: bool,
    content: Content,
}

enum Content {
    File,
    /// Somebody reads it.
    Coming,
    Memory(Arc<Data>),
}

impl PartialEq for Streamed {
    /// Whether both are one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streamed({} layers)", self.lock().layers)
    }
}

impl Streamed {
    /// Of no layers so far.
    pub fn new() -> Self {
        let (state, read, ahead) = Default::default();
        Self(Arc::new(Shared { state, read, ahead }))
    }

    /// Calls `make`, which makes the next layer and packs its matrices.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn layer<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        /// Ends the layer, also if `make` panics.
        struct Before(Option<Streamed>);
        impl Drop for Before {
            fn drop(&mut self) {
                OF_LAYER.set(self.0.take());
            }
        }
        self.lock().layers += 1;
        let _before = Before(OF_LAYER.replace(Some(self.clone())));
        make()
    }

    /// What the layer that is made right now belongs to.
    pub fn of_layer() -> Option<Self> {
        OF_LAYER.with_borrow(Clone::clone)
    }

    /// Adds matrices of one shape and dtype to the layer that is made right now, and returns their number.
    pub fn push(&self, matrices: Vec<Matrix>, on_demand: bool) -> usize {
        let mut state = self.lock();
        let layer = state.layers.saturating_sub(1);
        let matrices = Arc::new([matrices]);
        state.items.push(Item { matrices, layer, on_demand, content: Content::File });
        state.items.len() - 1
    }

    /// Matrices in memory. Those of other layers are given up.
    ///
    /// # Errors
    /// A file that cannot be read, or was written to since it was opened.
    pub fn data(&self, item: usize) -> Result<Arc<Data>> {
        let mut state = self.lock();
        let layer = state.items[item].layer;
        if let Some(Entered { next, given_up }) = state.enter(layer) {
            drop(state);
            drop(given_up);
            self.read_ahead(next);
            state = self.lock();
        }
        loop {
            match &state.items[item].content {
                Content::Memory(data) => return Ok(data.clone()),
                Content::File => break,
                Content::Coming => {
                    state = self.0.read.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        self.read(state, item)
    }

    /// Reads matrices that nobody reads yet.
    fn read(&self, mut state: MutexGuard<State>, item: usize) -> Result<Arc<Data>> {
        /// Nobody shall wait for what was not read, also if that panicked.
        struct Reading<'a>(&'a Shared, usize);
        impl Drop for Reading<'_> {
            fn drop(&mut self) {
                let mut state = self.0.lock();
                if let content @ Content::Coming = &mut state.items[self.1].content {
                    *content = Content::File;
                }
                self.0.read.notify_all();
            }
        }
        let Item { matrices, content, .. } = &mut state.items[item];
        let matrices = matrices.clone();
        *content = Content::Coming;
        drop(state);
        let _reading = Reading(&self.0, item);
        let data = Arc::new(Data::pack(&*matrices)?);
        let mut state = self.lock();
        if state.keeps(state.items[item].layer) {
            state.items[item].content = Content::Memory(data.clone());
        }
        Ok(data)
    }

    /// Has a layer read by the thread that does nothing else.
    fn read_ahead(&self, layer: usize) {
        let ahead = self.0.ahead.get_or_init(|| {
            let ((sender, layers), shared) = (channel(), Arc::downgrade(&self.0));
            // Without a thread of its own everything is read by those that need it.
            let name = thread::Builder::new().name("read-ahead".into());
            let _ = name.spawn(move || read_ahead(&shared, &layers));
            sender
        });
        let _ = ahead.send(layer);
    }

    /// Reads something of a layer, if it is one that is to be there and there is anything left.
    fn read_some(&self, layer: usize) -> bool {
        let state = self.lock();
        let all = state.all_in_demand;
        let left = |item: &Item| {
            let wanted = item.layer == layer && (all || !item.on_demand);
            wanted && matches!(item.content, Content::File)
        };
        match state.items.iter().position(left) {
            // Who needs it reads it again, and has the error.
            Some(item) if state.keeps(layer) => self.read(state, item).is_ok(),
            _ => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the layers that are asked for, as long as the model is there.
fn read_ahead(shared: &Weak<Shared>, layers: &Receiver<usize>) {
    for layer in layers {
        while shared.upgrade().is_some_and(|shared| Streamed(shared).read_some(layer)) {}
    }
}

/// What follows from another layer's turn.
struct Entered {
    /// What is needed next.
    next: usize,
    /// To be freed while nobody waits.
    given_up: Vec<Content>,
}

impl State {
    /// Makes a layer the one in use, if it is not already.
    fn enter(&mut self, layer: usize) -> Option<Entered> {
        if self.current == Some(layer) {
            return None;
        }
        let of_experts = self.items.iter().filter(|item| item.on_demand);
        let of_current = of_experts.filter(|item| Some(item.layer) == self.current);
        let (read, all) = of_current.fold((0, 0), |(read, all), item| {
            (read + usize::from(matches!(item.content, Content::Memory(_))), all + 1)
        });
        self.all_in_demand = 2 * read > all;
        self.current = Some(layer);
        let mut given_up = vec![];
        for at in 0..self.items.len() {
            let keeps = self.keeps(self.items[at].layer);
            if let (false, content @ Content::Memory(_)) = (keeps, &mut self.items[at].content) {
                given_up.push(mem::replace(content, Content::File));
            }
        }
        Some(Entered { next: self.next(layer), given_up })
    }

    fn next(&self, layer: usize) -> usize {
        (layer + 1) % self.layers.max(1)
    }

    /// Whether a layer is to be in memory: that in use, and the one behind it.
    fn keeps(&self, layer: usize) -> bool {
        self.current.is_some_and(|current| layer == current || layer == self.next(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::linear::matrix::{Source, deferred, deferring};
    use crate::kernels::linear::{Linear, Weight};
    use candle_core::{DType, Device, Module, Tensor};
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Rows in memory that count how many of them were read.
    #[derive(Debug)]
    struct Counted(Tensor, Arc<AtomicUsize>);

    impl Source for Counted {
        fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
            self.1.fetch_add(rows.len(), Ordering::Relaxed);
            if self.0.dim(1)? == 7 {
                candle_core::bail!("the file has changed")
            }
            self.0.narrow(0, rows.start, rows.len())
        }
    }

    fn weights(columns: usize, layers: usize) -> Result<Vec<Tensor>> {
        let some = |_| Tensor::randn(0f32, 1., (70, columns), &Device::Cpu);
        (0..layers).map(some).collect()
    }

    fn layers(weights: &[Tensor], read: &Arc<AtomicUsize>) -> Result<Vec<Linear>> {
        let streamed = Streamed::new();
        let layer = |weight: &Tensor| {
            streamed.layer(|| {
                let source = Arc::new(Counted(weight.clone(), read.clone()));
                let weight = deferred(source, weight.dims(), DType::F32)?;
                Linear::new(Weight::Tensor(weight), None)?.packed()
            })
        };
        deferring(|| weights.iter().map(layer).collect())
    }

    #[test]
    fn layers_come_when_they_are_needed_and_go() -> Result<()> {
        let (weights, read) = (weights(40, 4)?, Arc::new(AtomicUsize::new(0)));
        let layers = layers(&weights, &read)?;
        assert_eq!(read.load(Ordering::Relaxed), 0, "nothing is read beforehand");
        let x = Tensor::randn(0f32, 1., (3, 40), &Device::Cpu)?;
        for pass in 1..=3 {
            for (layer, weight) in layers.iter().zip(&weights) {
                let expected = Linear::new(Weight::Tensor(weight.clone()), None)?.packed()?;
                for _ in 0..2 {
                    let same = layer.forward(&x)?.to_vec2::<f32>()?;
                    assert_eq!(same, expected.forward(&x)?.to_vec2::<f32>()?);
                }
            }
            let read = read.load(Ordering::Relaxed);
            assert!((pass * 280..=pass * 280 + 70).contains(&read), "{read} rows in {pass} passes");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_an_error_for_who_needs_it() -> Result<()> {
        let read = Arc::new(AtomicUsize::new(0));
        let mut all = weights(40, 1)?;
        all.extend(weights(7, 1)?);
        let layers = layers(&all, &read)?;
        layers[0].forward(&Tensor::zeros((1, 40), DType::F32, &Device::Cpu)?)?;
        for _ in 0..2 {
            let error = layers[1].forward(&Tensor::zeros((1, 7), DType::F32, &Device::Cpu)?);
            assert!(error.unwrap_err().to_string().contains("the file has changed"));
        }
        Ok(())
    }

    #[test]
    fn threads_may_be_at_different_layers() -> Result<()> {
        let (weights, read) = (weights(40, 3)?, Arc::new(AtomicUsize::new(0)));
        let layers = layers(&weights, &read)?;
        let x = Tensor::randn(0f32, 1., (3, 40), &Device::Cpu)?;
        let run = |first: usize| -> Result<()> {
            for i in 0..20 {
                let (layer, weight) = (&layers[(first + i) % 3], &weights[(first + i) % 3]);
                let expected = Linear::new(Weight::Tensor(weight.clone()), None)?.packed()?;
                let same = layer.forward(&x)?.to_vec2::<f32>()?;
                assert_eq!(same, expected.forward(&x)?.to_vec2::<f32>()?);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let runs: Vec<_> = (0..3).map(|first| scope.spawn(move || run(first))).collect();
            runs.into_iter().try_for_each(|run| run.join().unwrap())
        })
    }
}
