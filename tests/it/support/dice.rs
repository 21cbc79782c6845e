//! Randomness that can be had again: the seed is printed, and `EDGEPUSH_TEST_SEED` sets it.

/// Returns a generator, and prints its seed.
pub(crate) fn seeded() -> fastrand::Rng {
    let given = std::env::var("EDGEPUSH_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("EDGEPUSH_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
