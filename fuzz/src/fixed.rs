//! Inputs that are the same in every run and on every machine. libFuzzer chooses by measured
//! coverage, which depends on threads, addresses and CPU features and so differs between runs even
//! with the same seed. Where a run decides about a change, the change has to make it fail, not
//! chance.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::input::HEAD;

/// The variable with the directory of seeds; if it is not set, libFuzzer chooses the inputs.
const SEEDS: &str = "EDGEPUSH_FUZZ_FIXED";
/// Inputs between two progress lines, whose digest shows whether two runs had the same inputs.
const TOLD: u64 = 10_000;
const BLOCK: usize = 512;
/// Maximum number of changes to one seed.
const MOST_CHANGES: u64 = 6;
/// Maximum length of the random bytes from which an archive is built.
const MOST_TAPE: u64 = 600;

/// The position in a run of fixed inputs.
struct Inputs {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    random: Random,
    count: u64,
    digest: DefaultHasher,
}

/// SplitMix64.
struct Random(u64);

/// Puts the next input into `data`, whose first `size` bytes are the input that libFuzzer would
/// mutate.
pub fn next(data: &mut [u8], size: usize, max_size: usize) -> usize {
    match inputs() {
        None => libfuzzer_sys::fuzzer_mutate(data, size, max_size),
        Some(mut inputs) => {
            let input = inputs.next(max_size);
            data[..input.len()].copy_from_slice(&input);
            input.len()
        }
    }
}

fn inputs() -> Option<MutexGuard<'static, Inputs>> {
    static INPUTS: OnceLock<Option<Mutex<Inputs>>> = OnceLock::new();
    INPUTS
        .get_or_init(|| env::var_os(SEEDS).map(|dir| Mutex::new(Inputs::new(dir.as_ref()))))
        .as_ref()
        .map(|inputs| inputs.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Inputs {
    fn new(dir: &Path) -> Self {
        let files = fs::read_dir(dir).expect("the directory of seeds");
        let mut paths: Vec<_> = files.map(|file| file.expect("a seed").path()).collect();
        paths.sort();
        let seeds = paths.iter().map(|path| fs::read(path).expect("a seed"));
        Self {
            seeds: seeds.collect(),
            words: words(include_str!("../archive.dict")),
            random: Random(1),
            count: 0,
            digest: DefaultHasher::new(),
        }
    }

    /// Returns each seed unchanged, then changed seeds and archives built from random bytes.
    fn next(&mut self, max_size: usize) -> Vec<u8> {
        let mut input = match self.seeds.get(self.count as usize) {
            Some(seed) => seed.clone(),
            None if self.random.below(4) == 0 => self.noise(),
            None => self.changed(),
        };
        input.truncate(max_size);
        self.digest.write(&input);
        self.count += 1;
        if self.count.is_multiple_of(TOLD) {
            let digest = self.digest.finish();
            eprintln!("the first {} inputs have digest {digest:016x}", self.count);
        }
        input
    }

    fn noise(&mut self) -> Vec<u8> {
        let built = 8 + self.random.below(3) as u8;
        let len = self.random.below(MOST_TAPE) + 1;
        let tape = (0..len).map(|_| self.random.byte());
        [built, 0]
            .into_iter()
            .chain(tape.collect::<Vec<_>>())
            .collect()
    }

    fn changed(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.random.below(MOST_CHANGES) {
            self.change(&mut input);
        }
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        let n = self.random.below(self.seeds.len() as u64) as usize;
        self.seeds[n].clone()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let random = &mut self.random;
        let kind = random.below(12);
        if kind == 0 {
            // How the archive is packed and unpacked. The first byte stays: few inputs make sense
            // under two ways of building them.
            input[1] = random.byte();
            return;
        }
        let at = HEAD + random.below((input.len() - HEAD + 1) as u64) as usize;
        let len = 1 + random.below(16) as usize;
        let end = (at + len).min(input.len());
        let words = self.words.len() as u64;
        match kind {
            1 | 2 => set(input, at, |byte| byte ^ 1 << random.below(8)),
            3 => set(input, at, |_| random.byte()),
            // Increments or decrements a number.
            4 => set(input, at, |byte| byte.wrapping_add(1)),
            5 => set(input, at, |byte| byte.wrapping_sub(1)),
            6 => drop(input.drain(at..end)),
            7 => {
                let noise: Vec<_> = (0..len).map(|_| random.byte()).collect();
                input.splice(at..at, noise);
            }
            8 => {
                let word = &self.words[random.below(words) as usize];
                input.splice(at..at, word.iter().copied());
            }
            9 => {
                let word = &self.words[random.below(words) as usize];
                let end = (at + word.len()).min(input.len());
                input.splice(at..end, word.iter().copied());
            }
            10 => self.move_blocks(input),
            _ => self.cross(input),
        }
        if input.len() <= HEAD {
            input.resize(HEAD + 1, 0);
        }
    }

    /// Repeats or removes whole blocks.
    fn move_blocks(&mut self, input: &mut Vec<u8>) {
        let blocks = (input.len() - HEAD) / BLOCK;
        if blocks == 0 {
            return;
        }
        let from = self.random.below(blocks as u64) as usize;
        let len = 1 + self.random.below((blocks - from).min(4) as u64) as usize;
        let range = HEAD + from * BLOCK..HEAD + (from + len) * BLOCK;
        if self.random.below(3) == 0 {
            input.drain(range);
            return;
        }
        let to = HEAD + BLOCK * self.random.below(blocks as u64 + 1) as usize;
        let copied = input[range].to_vec();
        input.splice(to..to, copied);
    }

    /// Continues with the bytes of another seed, from the start of a block or from anywhere.
    fn cross(&mut self, input: &mut Vec<u8>) {
        let other = self.seed();
        let unit = if self.random.below(2) == 0 { BLOCK } else { 1 };
        let at = HEAD + unit * self.random.below(((input.len() - HEAD) / unit + 1) as u64) as usize;
        let from =
            HEAD + unit * self.random.below(((other.len() - HEAD) / unit + 1) as u64) as usize;
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns a nearly uniform number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

fn set(input: &mut [u8], at: usize, to: impl FnOnce(u8) -> u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = to(*byte);
    }
}

/// Parses a libFuzzer dictionary: one quoted word per line, with `\\` and `\xNN` escapes.
fn words(dictionary: &str) -> Vec<Vec<u8>> {
    let quoted = |line: &str| {
        let mut rest = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
        let mut word = Vec::new();
        while let [first, tail @ ..] = rest {
            (rest, _) = match (first, tail) {
                (b'\\', [b'x', high, low, tail @ ..]) => (tail, word.push(hex(*high, *low)?)),
                (b'\\', [escaped, tail @ ..]) => (tail, word.push(*escaped)),
                (byte, tail) => (tail, word.push(*byte)),
            };
        }
        Some(word)
    };
    dictionary.lines().filter_map(quoted).collect()
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |c| char::from(c).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}
