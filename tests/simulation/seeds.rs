//! Runs seeds on all processors, and tells of the first that goes wrong.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// Whether one seed is run alone, which proves nothing about all of them.
pub(crate) fn is_single() -> bool {
    number("MILLSTREAM_SIM_SEED").is_some()
}

/// Those that the test asks for are thousands; of others their seed is told.
pub(crate) fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some(AS_ASKED) {
                usual(panic);
            }
        }));
    });
}

/// What functions panic with because the test asks them to.
pub(crate) const AS_ASKED: &str = "as the test asked";

/// Runs `usual` seeds, or as many as `MILLSTREAM_SIM_SEEDS` says, or the one of
/// `MILLSTREAM_SIM_SEED`.
///
/// # Panics
/// When a seed goes wrong, with the seed.
pub(crate) fn each_seed(what: &str, usual: u64, run: impl Fn(u64) -> Result<(), String> + Sync) {
    let seeds = match number("MILLSTREAM_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLSTREAM_SIM_SEEDS").unwrap_or(usual),
    };
    let next = AtomicU64::new(seeds.start);
    let wrong: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let work = || {
        while wrong.lock().expect("no panic").is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let why = match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                Ok(Ok(())) => continue,
                Ok(Err(why)) => why,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let plain = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                    format!("panicked: {}", text.or(plain).unwrap_or_default())
                }
            };
            wrong.lock().expect("no panic").get_or_insert((seed, why));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    if let Some((seed, why)) = wrong.into_inner().expect("no panic") {
        panic!("{what}: MILLSTREAM_SIM_SEED={seed}: {why}");
    }
}
