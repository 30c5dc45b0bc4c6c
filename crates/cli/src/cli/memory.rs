//! How much memory there is, and whether weights are to stay in their files.

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use gemma_mlp::Checkpoint;
use gemma_mlp_drift::Footprint;
use gemma_mlp_drift::drift::Model;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Where the weights are while a model runs.
#[derive(Args)]
pub struct MemoryArgs {
    /// Leave the weights in their files, and read them layer by layer: as fast on long texts, and the same
    /// figures [default: if they are larger than the memory that is free]
    #[arg(long)]
    stream: bool,
}

impl MemoryArgs {
    /// The checkpoint, with its weights in memory if those of all models fit beside one another; else in its files, and
    /// standard error says so.
    ///
    /// # Errors
    /// Weights that are to be quantised, and are already.
    pub fn hold(
        &self,
        checkpoint: Checkpoint,
        models: &[Model],
        device: &Device,
    ) -> Result<Checkpoint> {
        let weights = Footprint::of(&checkpoint, models)?.weights;
        if self.stream {
            return Ok(checkpoint.streamed());
        }
        let (Some(free), true) = (free(), device.is_cpu()) else { return Ok(checkpoint) };
        if weights < free {
            return Ok(checkpoint);
        }
        let _ = writeln!(
            io::stderr(),
            "the weights take {}, and {} of memory are free: they stay in their files and are read layer by layer",
            gigabytes(weights),
            gigabytes(free),
        );
        Ok(checkpoint.streamed())
    }
}

/// How many windows of so many tokens go through a layer at once: several, if each time the weights are read, and as many
/// as there is memory for.
///
/// # Errors
/// Weights that are to be quantised, and are already.
pub fn windows_at_once(checkpoint: &Checkpoint, models: &[Model], tokens: usize) -> Result<usize> {
    Ok(match (checkpoint.is_streamed(), free()) {
        (true, Some(free)) => Footprint::of(checkpoint, models)?.texts(tokens, free),
        _ => 1,
    })
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Bytes of memory that this process may still take, as far as the system says: what is free, what its control group
/// leaves it, and what its limit on addresses does.
fn free() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let available = System::new_with_specifics(memory).available_memory();
    let available = Some(available).filter(|&bytes| bytes > 0); // 0 where it is not known
    [available, left_by_groups(), left_of_addresses()].into_iter().flatten().min()
}

/// What Linux's control groups leave, of either version: the process's own, and those around it.
fn left_by_groups() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    // "0::/path" of version 2, "8:memory:/path" of version 1.
    let left = groups.lines().filter_map(|line| {
        let (of, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, files) = match of {
            "" => ("/sys/fs/cgroup", ["memory.max", "anon "]),
            "memory" => ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "total_rss "]),
            _ => return None,
        };
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|dir| dir.starts_with(root));
        around.filter_map(|group| left_by(group, files)).min()
    });
    left.min()
}

/// What a group leaves. Files that are cached do not count: they make way.
fn left_by(group: &Path, [limit, taken]: [&str; 2]) -> Option<u64> {
    let most: u64 = fs::read_to_string(group.join(limit)).ok()?.trim().parse().ok()?;
    let now = fs::read_to_string(group.join("memory.stat")).ok()?;
    let taken: u64 = now.lines().find_map(|line| line.strip_prefix(taken)?.trim().parse().ok())?;
    Some(most.saturating_sub(taken))
}

/// What a limit on addresses leaves (`ulimit -v`), on Linux.
fn left_of_addresses() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let most = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let most: u64 = most.split_whitespace().next()?.parse().ok()?;
    let now = fs::read_to_string("/proc/self/status").ok()?;
    let now = now.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let now: u64 = now.split_whitespace().next()?.parse().ok()?;
    Some(most.saturating_sub(now << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_control_groups_leave() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let left = |files| left_by(dir.path(), files);
        let (second, first) = (["memory.max", "anon "], ["memory.limit_in_bytes", "total_rss "]);
        assert_eq!(left(second), None);
        write("memory.stat", "anon 300\nfile 5000\nanon_thp 7\nrss 1\ntotal_rss 200\n");
        write("memory.limit_in_bytes", "1000\n");
        write("memory.max", "max\n");
        assert_eq!((left(second), left(first)), (None, Some(800)));
        write("memory.max", "250\n");
        assert_eq!(left(second), Some(0), "a limit that was lowered");
    }
}
