//! Texts, token ids and reports as they are read: of any source, but not without end.

use anyhow::Result;
use gemma_mlp::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Far above any text or report, and still within what a machine's memory holds: 1 GiB of English is 200 million
/// tokens.
const LIMIT: u64 = 1 << 30;

/// Of a device that is no disk, such as a terminal. `/dev/zero` never ends.
const DEVICE_LIMIT: u64 = 1 << 20;

/// Reads a text from a file, a pipe or a terminal.
///
/// # Errors
/// One that cannot be read, does not end, or is not UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let failed = |source| Error::Io { path: path.into(), source };
    let refused = |reason: String| Error::Input(format!("{}: {reason}", path.display()));
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let (limit, too_long) = if is_device(&metadata) {
        (DEVICE_LIMIT, "a device that gives more than 1 MiB; pass a file or a pipe")
    } else {
        (LIMIT, "longer than 1 GiB, the most that is read at once; split it into several files")
    };
    if metadata.len() > limit {
        return Err(refused(too_long.into()).into());
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(refused(too_long.into()).into());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let bytes = e.into_bytes();
        let encoding = match bytes[..] {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16",
            _ => "ENCODING",
        };
        let byte = bytes[at];
        let remedy = format!("convert it, as with `iconv -f {encoding} -t UTF-8`");
        refused(format!("not UTF-8 (byte 0x{byte:02x} at position {at}); {remedy}")).into()
    })
}

fn is_device(file: &std::fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        file.file_type().is_char_device()
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        false
    }
}
