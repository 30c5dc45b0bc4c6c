//! A file on the hub.

use super::id::is_hex;
use ring::digest::{Context, SHA256, digest};
use std::fmt::Write as _;

/// A file as the repository lists it.
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: u64,
    /// In lower case, where the hub says it.
    pub(super) sha256: Option<String>,
    /// Its name among the cache's blobs, which is that of these bytes alone.
    pub(super) blob: String,
}

impl RemoteFile {
    /// `hash` is the SHA-256, or git's hash of what lies in git: blobs are called by these.
    pub(super) fn hashed(name: &str, size: u64, hash: &str) -> Option<Self> {
        let is_sha256 = is_hex(hash, 64);
        (is_sha256 || is_hex(hash, 40)).then(|| Self {
            name: name.into(),
            size,
            sha256: is_sha256.then(|| hash.to_ascii_lowercase()),
            blob: hash.into(),
        })
    }

    /// A mirror's tag, or none, may be shared by different files and is no name for a file. So the
    /// blob is called by where it is from as well.
    pub(super) fn tagged(commit: &str, name: &str, size: u64, tag: &str) -> Self {
        let key = digest(&SHA256, format!("{commit}\n{name}\n{size}\n{tag}").as_bytes());
        let safe = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
        let tag: String = tag.chars().filter(safe).take(64).collect();
        let blob = format!(
            "{}-{}",
            if tag.is_empty() { "untagged" } else { &tag },
            hex(&key.as_ref()[..16])
        );
        Self { name: name.into(), size, sha256: None, blob }
    }
}

/// The SHA-256 of what has been read so far.
pub(super) fn sha256(read: &Context) -> String {
    hex(read.clone().finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing into a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// What a repository has in place of weights that are read here, and what to do about it.
pub(super) fn instead(files: &[String]) -> String {
    let first = |is: &dyn Fn(&str) -> bool| files.iter().find(|file| is(file));
    let ends = |ends: &'static [&str]| move |file: &str| ends.iter().any(|end| file.ends_with(end));
    if first(&|file| file == "adapter_config.json").is_some() {
        return "it has adapter_config.json: an adapter, to be merged into its base model first"
            .into();
    }
    let formats: [(&[&str], &str); 3] = [
        (&[".gguf"], "a GGUF file: pass its name as the file to have it, as in --file NAME.gguf"),
        (&[".bin", ".pt", ".pth", ".ckpt"], "PyTorch's pickles: convert them to safetensors"),
        (
            &[".h5", ".msgpack", ".onnx", ".npz"],
            "another framework's weights: convert them to safetensors",
        ),
    ];
    for (suffixes, remedy) in formats {
        if let Some(file) = first(&ends(suffixes)) {
            return format!("it has {}: {remedy}", super::failure::plain(file));
        }
    }
    match first(&ends(&[".safetensors"])) {
        Some(file) => {
            format!("it has {}, under a name that is not looked for", super::failure::plain(file))
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs() {
        let hash = "AB".repeat(32);
        let file = RemoteFile::hashed("a", 1, &hash).unwrap();
        assert_eq!((file.sha256, file.blob), (Some("ab".repeat(32)), hash));
        assert!(RemoteFile::hashed("a", 1, &"ab".repeat(20)).unwrap().sha256.is_none());
        for hash in ["", "..", "ab", &"xy".repeat(32)] {
            assert!(RemoteFile::hashed("a", 1, hash).is_none(), "{hash}");
        }

        let blob = |commit, name, size, tag| RemoteFile::tagged(commit, name, size, tag).blob;
        let mut blobs = vec![
            blob("c", "a", 1, "x"),
            blob("d", "a", 1, "x"),
            blob("c", "b", 1, "x"),
            blob("c", "a", 2, "x"),
            blob("c", "a", 1, "/x"),
            blob("c", "a", 1, ""),
            blob("c", "a", 1, "../../x"),
            blob("c", "a", 1, &"x".repeat(9999)),
        ];
        for blob in &blobs {
            assert!(blob.len() <= 100 && !blob.contains(['/', '.']), "{blob}");
        }
        blobs.sort();
        blobs.dedup();
        assert_eq!(blobs.len(), 8);
    }

    #[test]
    fn other_formats() {
        let said =
            |files: &[&str]| instead(&files.iter().map(|f| f.to_string()).collect::<Vec<_>>());
        let adapter = ["adapter_config.json", "adapter_model.safetensors", "a.gguf"];
        assert!(said(&adapter).contains("merged into its base model"));
        assert!(
            said(&["README.md", "a.Q4_0.gguf", "pytorch_model.bin"]).contains("it has a.Q4_0.gguf")
        );
        assert!(said(&["pytorch_model.bin"]).contains("it has pytorch_model.bin"));
        assert!(said(&["sub/model.safetensors"]).contains("it has sub/model.safetensors"));
        assert_eq!(said(&["README.md"]), "");
    }
}
