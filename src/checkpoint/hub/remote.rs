//! A file on the hub.

use super::id::is_hex;

/// A file as the repository lists it.
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: u64,
    /// SHA-256, or git's hash of what lies in git. Names the file in the cache.
    pub(super) checksum: String,
}

impl RemoteFile {
    pub(super) fn is_sha256(&self) -> bool {
        is_hex(&self.checksum, 64)
    }
}
