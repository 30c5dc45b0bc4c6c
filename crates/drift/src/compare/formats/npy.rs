//! NumPy's arrays: one in a `.npy` file, a folder of such files, and the header of any.

use super::{Beginning, Format};
use crate::compare::assemble::{Array, Assembly, Elements};
use crate::compare::dump::Dump;
use crate::compare::names::{Names, Reading};
use crate::error::{Error, InvalidDump, Result};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::internal::{File, Numbers};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(super) const NPY: Format = Format { name: "npy", recognises, read };

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// The ending of a file's name.
pub(super) const ENDING: &str = ".npy";

/// The longest header; NumPy's own limit is 10,000.
const MAX_HEADER: usize = 64 << 10;

/// The most axes of an array.
const MAX_RANK: usize = 8;

/// The largest array in Fortran's order, in bytes: it is brought into the other order in memory.
const MAX_FORTRAN: u64 = 1 << 30;

fn recognises(beginning: &Beginning) -> bool {
    beginning.bytes.starts_with(MAGIC) || beginning.has(ENDING)
}

fn read(path: &Path, names: &Names) -> Result<Dump> {
    let mut assembly = Assembly::new(path.display().to_string(), names);
    if path.is_dir() {
        let folder = Beginning::of(path)?;
        if let Some(unused) = folder.unused(|name| name.ends_with(ENDING)) {
            assembly.remark(unused);
        }
        for file in folder.files.iter().filter(|file| file.ends_with(ENDING)) {
            let name = file.strip_suffix(ENDING).unwrap_or(file);
            assembly.add(name, || array(&Arc::new(File::closed(path.join(file))?), file))?;
        }
        return assembly.finish(BTreeMap::new());
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let shown = path.display().to_string();
    if names.read(&stem) == Reading::Unknown {
        let shape = array(&Arc::new(File::open(path.into())?), &shown)?.shape;
        let reason = format!(
            "an array of shape {shape:?}, and '{stem}' does not say of which point; rename the file, as in \
             logits.npy and hidden.3.npy, or say it with --map"
        );
        return Err(Error::dump(path, InvalidDump::Malformed(reason)));
    }
    assembly.add(&stem, || array(&Arc::new(File::open(path.into())?), &shown))?;
    assembly.finish(BTreeMap::new())
}

/// The array in a file; `shown` is the file's name in messages.
pub(super) fn array(file: &Arc<File>, shown: &str) -> Result<Array> {
    let fail = |reason| Error::dump(shown, reason);
    let malformed = |reason: String| fail(InvalidDump::Malformed(reason));
    let mut start = [0; 12];
    let start = &mut start[..file.len().min(12) as usize];
    file.fill(0, start)?;
    let ends = || malformed("an .npy file that ends within its header; write it again".into());
    let [_, _, _, _, _, _, version, _, a, b, rest @ ..] = &*start else { return Err(ends()) };
    if !start.starts_with(MAGIC) {
        return Err(malformed("not an .npy file; write it with numpy.save".into()));
    }
    let (at, length) = match (version, rest) {
        (1, _) => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        (2 | 3, [c, d]) => (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        (2 | 3, _) => return Err(ends()),
        _ => {
            return Err(malformed(format!(
                "an .npy file of version {version}; 1 to 3 are read: write it with numpy.save"
            )));
        }
    };
    if length > MAX_HEADER {
        return Err(malformed(format!("an .npy header of {length} bytes; {MAX_HEADER} are read")));
    }
    if at + length as u64 > file.len() {
        return Err(ends());
    }
    let mut header = vec![0; length];
    file.fill(at, &mut header)?;
    // Version 3 is in UTF-8, the others in Latin-1, of which nothing that is read differs.
    let header = String::from_utf8_lossy(&header);
    let Header { dtype, fortran, shape } = parse(&header).map_err(fail)?;
    let at = at + length as u64;
    let count = shape.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim));
    let bytes = count.and_then(|count| count.checked_mul(dtype.bitsize() / 8));
    if bytes.map(|bytes| bytes as u64) != Some(file.len() - at) {
        return Err(malformed(format!(
            "an array of shape {shape:?} in {dtype:?}, and {} bytes behind the header; write it again",
            file.len() - at
        )));
    }
    let numbers = count.and_then(|count| Numbers::of(file, at, count, dtype)).ok_or_else(ends)?;
    if !fortran || shape.len() < 2 {
        return Ok(Array { shape, elements: Elements::File(numbers) });
    }
    if file.len() - at > MAX_FORTRAN {
        return Err(malformed(
            "an array of more than 1 GiB in Fortran's order; write numpy.ascontiguousarray of it"
                .into(),
        ));
    }
    let elements = Elements::Memory(from_fortran(&numbers, &shape).map_err(|e| match e {
        NotIds::At(at) => {
            malformed(format!("number {at} in the file is no token id and no position"))
        }
        NotIds::Error(e) => e,
    })?);
    Ok(Array { shape, elements })
}

/// Why an array cannot be brought into row-major order.
enum NotIds {
    At(usize),
    Error(Error),
}

impl<E: Into<Error>> From<E> for NotIds {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// An array whose first index runs fastest, row-major; integers as u32.
fn from_fortran(numbers: &Numbers, shape: &[usize]) -> Result<Tensor, NotIds> {
    let reversed: Vec<_> = shape.iter().rev().copied().collect();
    let all = 0..numbers.len();
    let tensor = match numbers.float() {
        Some(_) => numbers.tensor(all, &reversed)?,
        None => {
            let ids = numbers.ids(all)?;
            if let Some(at) = ids.iter().position(Option::is_none) {
                return Err(NotIds::At(at));
            }
            let ids: Vec<u32> = ids.into_iter().flatten().collect();
            Tensor::from_vec(ids, reversed.as_slice(), &Device::Cpu)?
        }
    };
    debug_assert!(tensor.dtype() == DType::U32 || tensor.dtype().is_float());
    let axes: Vec<_> = (0..shape.len()).rev().collect();
    Ok(tensor.permute(axes)?.contiguous()?)
}

/// What a header says.
#[derive(Debug, PartialEq)]
struct Header {
    dtype: Dtype,
    fortran: bool,
    shape: Vec<usize>,
}

/// Reads the dictionary of a header: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(header: &str) -> Result<Header, InvalidDump> {
    let malformed = || {
        InvalidDump::Malformed("an .npy header that is damaged; write it with numpy.save".into())
    };
    let mut rest = header.trim().strip_prefix('{').ok_or_else(malformed)?;
    let (mut dtype, mut fortran, mut shape) = (None, None, None);
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if let Some(end) = rest.strip_prefix('}') {
            if !end.trim().is_empty() {
                return Err(malformed());
            }
            break;
        }
        let (key, after) = text(rest).ok_or_else(malformed)?;
        rest = after.trim_start().strip_prefix(':').ok_or_else(malformed)?.trim_start();
        match key {
            "descr" if rest.starts_with('[') => {
                let reason = "an array of records; write one array for each field";
                return Err(InvalidDump::Malformed(reason.into()));
            }
            "descr" => {
                let (descr, after) = text(rest).ok_or_else(malformed)?;
                (dtype, rest) = (Some(by_descr(descr)?), after);
            }
            "fortran_order" => {
                let (value, after) = match (rest.strip_prefix("True"), rest.strip_prefix("False")) {
                    (Some(after), _) => (true, after),
                    (_, Some(after)) => (false, after),
                    _ => return Err(malformed()),
                };
                (fortran, rest) = (Some(value), after);
            }
            "shape" => {
                let inner = rest.strip_prefix('(').ok_or_else(malformed)?;
                let (inner, after) = inner.split_once(')').ok_or_else(malformed)?;
                let mut dims = vec![];
                for dim in inner.split(',').map(str::trim).filter(|dim| !dim.is_empty()) {
                    if dims.len() == MAX_RANK {
                        let reason = format!("an array of more than {MAX_RANK} axes");
                        return Err(InvalidDump::Malformed(reason));
                    }
                    // Python 2 wrote `3L`.
                    dims.push(dim.trim_end_matches('L').parse().map_err(|_| malformed())?);
                }
                (shape, rest) = (Some(dims), after);
            }
            _ => return Err(malformed()),
        }
    }
    match (dtype, fortran, shape) {
        (Some(dtype), Some(fortran), Some(shape)) => Ok(Header { dtype, fortran, shape }),
        _ => Err(malformed()),
    }
}

/// A text in quotes, and what follows it.
fn text(rest: &str) -> Option<(&str, &str)> {
    let quote = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    rest[1..].split_once(quote)
}

/// A dtype as NumPy writes it: byte order, kind, bytes.
fn by_descr(descr: &str) -> Result<Dtype, InvalidDump> {
    let refuse = |reason: String| Err(InvalidDump::Malformed(reason));
    let (order, kind) = match descr.chars().next() {
        Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
        _ => ('<', descr),
    };
    let dtype = match kind {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u8" => Dtype::U64,
        "u4" => Dtype::U32,
        "u2" => Dtype::U16,
        "u1" => Dtype::U8,
        _ if kind.starts_with('O') => {
            return Err(InvalidDump::Pickle { what: "an array of Python objects" });
        }
        "V2" => {
            return refuse("an array of '|V2', as bf16 is written, which NumPy does not know; write it as float32".into());
        }
        _ => {
            return refuse(format!(
                "an array of '{descr}'; write it as float32, or token ids as int64"
            ));
        }
    };
    match order {
        '>' => refuse(format!("a big-endian array ('{descr}'); write .astype('<{kind}') of it")),
        _ => Ok(dtype),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(version: u8, header: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[version, 0]].concat();
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        [&bytes, header.as_bytes(), body].concat()
    }

    fn read(bytes: Vec<u8>) -> Result<Array> {
        array(&Arc::new(File::from_bytes("a.npy".into(), bytes.into())), "a.npy")
    }

    #[test]
    fn headers_of_all_versions_are_read() {
        for version in 1..=3 {
            let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n";
            assert_eq!(read(bytes(version, header, &[0; 24])).unwrap().shape, [2, 3]);
        }
        let header = |descr: &str, fortran: &str, shape: &str| {
            parse(&format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"))
        };
        let one = Header { dtype: Dtype::I64, fortran: true, shape: vec![7] };
        assert_eq!(header("'<i8'", "True", "(7,)"), Ok(one));
        assert_eq!(header("'|u1'", "False", "()").unwrap().shape, [0; 0]);
        for (descr, part) in [
            ("'>f4'", "big-endian"),
            ("'|O'", "pickle"),
            ("'|V2'", "bf16"),
            ("'<c8'", "'<c8'"),
            ("[('a', '<f4')]", "records"),
            ("'", "an array of ', '"),
            ("7", "damaged"),
            ("''", "an array of ''"),
        ] {
            let error = header(descr, "False", "(1,)").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}";
        let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}";
        for bytes in [
            bytes(1, good, &[0; 23]),
            bytes(1, good, &[0; 25]),
            bytes(1, huge, &[0; 24]),
            bytes(4, good, &[0; 24]),
            bytes(1, good, &[0; 24])[..9].to_vec(),
            bytes(2, good, &[0; 24])[..11].to_vec(),
            bytes(1, good, &[0; 24])[..30].to_vec(),
            vec![],
        ] {
            let error = read(bytes).map(|array| array.shape).unwrap_err().to_string();
            assert!(error.starts_with("a.npy: ") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn fortrans_order_is_turned() {
        let header = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}";
        let body: Vec<u8> =
            [1f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let Elements::Memory(tensor) = read(bytes(1, header, &body)).unwrap().elements else {
            panic!("not in memory")
        };
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]);
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(header in ".{0,80}|\\{'(descr|shape)': ['<(0-9,fL)]{0,9}[^}]{0,20}\\}") {
            let _ = parse(&header);
            for version in 1..=3 {
                let _ = read(bytes(version, &header, &[0; 8]));
            }
        }
    }
}
