//! GGUF files.

use super::oracle::{remarks, told};
use candle_core::{DType, Device};
use gemma_mlp::checkpoint::inspect;
use gemma_mlp::internal::checkpoint_from_gguf;

/// The largest tensor that is loaded, in elements: a table may be larger than what the file says of it is worth.
const LARGEST: usize = 1 << 20;

/// Opens a file, loads its tensors, and reads a text with its tokenizer.
pub fn gguf(data: &[u8]) {
    let Some(checkpoint) = told(checkpoint_from_gguf(data.to_vec())) else { return };
    remarks(checkpoint.remarks());
    let tensors = checkpoint.tensors();
    for (name, shape, storage) in tensors.entries() {
        let elements: usize = shape.iter().product();
        if elements > LARGEST {
            continue;
        }
        let loaded = told(tensors.load(name, shape, DType::F32, &Device::Cpu));
        assert_eq!(loaded.is_some(), storage.float().is_some(), "{name}");
        let Some(numbers) = told(tensors.numbers(name)).filter(|_| loaded.is_some()) else {
            continue;
        };
        assert_eq!(numbers.len(), elements);
        let middle = elements / 3..elements;
        let part = told(numbers.tensor(middle.clone(), &[middle.len()])).unwrap();
        let whole = loaded.unwrap().flatten_all().unwrap();
        let whole: Vec<f32> = whole.to_vec1().unwrap();
        let part: Vec<f32> = part.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        assert!(part.iter().map(|x| x.to_bits()).eq(whole[middle].iter().map(|x| x.to_bits())));
    }
    let inspection = told(inspect(&checkpoint, |_| ())).unwrap();
    remarks(&inspection.remarks);
    if let Some(ids) = told(checkpoint.encode("a text, ▁ \n\n é")) {
        told(checkpoint.decode(&ids));
    }
}
