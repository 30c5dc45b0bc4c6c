//! Two pieces of work timed in turns, so that whatever disturbs the machine disturbs both.

use candle_core::Tensor;
use cpu_time::ProcessTime;
use gemma_mlp::Result;
use gemma_mlp::internal::threads;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How often each is timed at least and at most.
const FEWEST: usize = 3;
const MOST: usize = 15;

/// After this long in one of them, the fewest rounds are enough for it.
const ENOUGH: Duration = Duration::from_millis(500);

/// How long a piece of work takes: medians, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    /// From beginning to end.
    pub wall_ms: f64,
    /// What all threads of the process computed meanwhile.
    pub cpu_ms: f64,
}

/// How long two forward passes take, with helpers that are awake as they are in a model, whose operations
/// follow one another. `cool` runs before every one of them and is not timed.
pub(super) fn turns(
    [ours, other]: [&dyn Fn() -> candle_core::Result<Tensor>; 2],
    cool: impl Fn(),
) -> Result<[Time; 2]> {
    let pass = |forward: &dyn Fn() -> candle_core::Result<Tensor>| {
        black_box(forward()?);
        Ok(())
    };
    threads::awake(|| {
        medians([&mut || pass(ours), &mut || pass(other)], || {
            cool();
            threads::rouse();
        })
    })
}

/// How long two pieces of work take. `before` runs before every one of them and is not timed.
pub(super) fn medians(
    mut work: [&mut dyn FnMut() -> Result<()>; 2],
    before: impl Fn(),
) -> Result<[Time; 2]> {
    let mut times = [vec![], vec![]];
    let mut cpu = [vec![], vec![]];
    for work in &mut work {
        work()?; // the first call brings allocations and threads up
    }
    while times.iter().any(|times| unfinished(times)) {
        for ((work, times), cpu) in work.iter_mut().zip(&mut times).zip(&mut cpu) {
            if unfinished(times) {
                before();
                let (start, computed) = (Instant::now(), ProcessTime::now());
                work()?;
                times.push(start.elapsed());
                cpu.push(computed.elapsed());
            }
        }
    }
    let [ours, other] = times.map(median);
    let [our_cpu, other_cpu] = cpu.map(median);
    Ok([(ours, our_cpu), (other, other_cpu)].map(|(wall_ms, cpu_ms)| Time { wall_ms, cpu_ms }))
}

/// Whether more rounds are wanted: a slow piece of work gets fewer.
fn unfinished(times: &[Duration]) -> bool {
    let time: Duration = times.iter().sum();
    times.len() < FEWEST || (times.len() < MOST && time < ENOUGH)
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu_time::ThreadTime;

    #[test]
    fn rounds_adapt() {
        let ms = Duration::from_millis;
        assert!(unfinished(&[]) && unfinished(&[ms(9000); 2]) && !unfinished(&[ms(9000); 3]));
        assert!(unfinished(&[ms(100); 4]) && !unfinished(&[ms(100); 5]));
        assert!(unfinished(&[ms(1); 14]) && !unfinished(&[ms(1); 15]));
    }

    #[test]
    fn both_run_in_turns() -> Result<()> {
        let order = std::cell::RefCell::new(vec![]);
        let log = |name| {
            order.borrow_mut().push(name);
            Ok(())
        };
        let (mut a, mut b) = (|| log('a'), || log('b'));
        let times = medians([&mut a, &mut b], || order.borrow_mut().push('-'))?;
        assert!(times.iter().all(|time| time.wall_ms >= 0.0 && time.cpu_ms >= 0.0));
        let order: String = order.into_inner().into_iter().collect();
        assert_eq!(order, format!("ab{}", "-a-b".repeat(MOST)));
        Ok(())
    }

    #[test]
    fn cpu_time_is_that_of_all_threads() -> Result<()> {
        let spin = |ms| {
            let start = ThreadTime::now();
            while start.elapsed() < Duration::from_millis(ms) {
                std::hint::spin_loop();
            }
        };
        let mut two = || {
            std::thread::scope(|scope| {
                scope.spawn(|| spin(4));
                spin(4);
            });
            Ok(())
        };
        let mut sleep = || {
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        };
        let [two, sleep] = medians([&mut two, &mut sleep], || {})?;
        assert!(two.cpu_ms >= 8.0 && sleep.wall_ms >= 2.0);
        Ok(())
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let times = [3, 1, 900, 2, 4].map(Duration::from_millis);
        assert!((median(times.to_vec()) - 3.0).abs() < 1e-9);
    }
}
